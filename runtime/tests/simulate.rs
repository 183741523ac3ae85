//! Simulations of the toy group: what is right is the same under every schedule, and what is not is
//! named.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod toy;

use moec_emulator::Schedule;
use moec_ir::{Phase, Ranks};
use moec_runtime::simulate::{Simulation, Tokens, Verdict, compare};
use moec_runtime::{Artefact, Checkpoint};
use toy::group::RANKS;

fn weights() -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    toy::write(&folder.path().join("model.safetensors"), &toy::group::tensors());
    Checkpoint::open(folder.path()).unwrap()
}

fn with<T>(artefact: &Artefact, use_simulation: impl FnOnce(&Simulation<'_>) -> T) -> T {
    let ranks = Ranks::new(RANKS, RANKS).unwrap();
    let tokens = Tokens::draw(ranks, 3, true, (toy::VOCAB as u64, 5));
    let checkpoint = &weights();
    let simulation = Simulation { artefact, checkpoint, ranks, tokens: &tokens, most: 3 };
    use_simulation(&simulation)
}

/// The toy with its PTX changed.
fn changed(from: &str, to: &str) -> Artefact {
    let mut artefact = toy::group::artefact();
    for compiled in artefact.phases.values_mut() {
        assert!(compiled.ptx.contains(from), "{from}");
        compiled.ptx = compiled.ptx.replace(from, to);
    }
    artefact
}

#[test]
fn all_schedules_of_a_right_exchange_give_the_same() {
    with(&toy::group::artefact(), |simulation| {
        let expected = simulation.run(Schedule::InOrder).unwrap();
        let mut heard = 0;
        let verdict = simulation.schedules(0..6, &expected, &mut |done| heard = done);
        assert!(matches!(verdict, Verdict::Same));
        assert_eq!(heard, 6);
        let [prefill, decode] = &expected.steps[..] else { panic!() };
        assert_eq!((prefill.phase, decode.phase), (Phase::Prefill, Phase::Decode));
        for (rank, tokens) in simulation.tokens.prefill.iter().enumerate() {
            assert_eq!(prefill.logits[rank], toy::group::expected(tokens, 3));
        }
        assert!(decode.logits[3].is_empty() && !decode.logits[2].is_empty());
        let (recorded, timeline) = simulation.record(Schedule::InOrder).unwrap();
        assert_eq!(recorded, expected);
        let trace = timeline.to_string();
        for part in ["\"rank 3\"", "\"exchange_0\"", "told in `layer` of layer 2"] {
            assert!(trace.contains(part), "{trace}");
        }
        // The same seed repeats itself, values between functions included.
        let again = || simulation.run(Schedule::Seeded(4)).unwrap();
        assert_eq!(again(), again());
    });
}

#[test]
fn a_read_that_does_not_wait_is_named_with_its_seed() {
    with(&changed("@%p1 bra wait;", ""), |simulation| {
        let right = with(&toy::group::artefact(), |s| s.run(Schedule::InOrder).unwrap());
        let verdict = simulation.schedules(0..20, &right, &mut |_| {});
        let Verdict::Differs { seed, difference } = verdict else { panic!("nothing was found") };
        assert_eq!((difference.function.as_str(), difference.output), ("layer", 0));
        assert!(difference.layer.is_some() && difference.rank < 3);
        // The seed alone finds it again.
        let again = simulation.run(Schedule::Seeded(seed)).unwrap();
        assert_eq!(compare(&again, &right), Some(difference));
    });
}

#[test]
fn who_waits_for_whom_is_told_by_rank_launch_and_buffer() {
    let silent = changed("tell:\n", "setp.eq.u32 %p1, %r2, 2;\n@%p1 bra done;\ntell:\n");
    with(&silent, |simulation| {
        let failed = simulation.run(Schedule::Seeded(1)).unwrap_err();
        let [hang] = &failed.diagnostics[..] else { panic!("{failed:?}") };
        assert_eq!(hang.code, "E1107");
        for part in [
            "rank 0, `exchange_0` (told in `layer` of layer 0) waits for a change of byte 8 of `flags of prefill` of rank 0",
            "rank 3, `exchange_0` (told in `layer` of layer 0)",
            "(written by no atomic or ordered store)",
        ] {
            assert!(hang.message.contains(part), "{}", hang.message);
        }
        assert_eq!(failed.places, [("layer".to_owned(), "told".to_owned())]);
    });
}
