//! A toy model runs on a group of emulated ranks as it computes by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod toy;

use moec_emulator::{DeviceConfig, Schedule};
use moec_ir::Ranks;
use moec_runtime::device::{self, EmulatedGroup};
use moec_runtime::group::Room;
use moec_runtime::{Artefact, Checkpoint, Engine, GroupSession, Phase, Rows, SequenceId, Session};
use toy::group::RANKS;

fn weights() -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    toy::write(&folder.path().join("model.safetensors"), &toy::group::tensors());
    Checkpoint::open(folder.path()).unwrap()
}

fn group(schedule: Schedule) -> EmulatedGroup {
    let config = DeviceConfig {
        schedule,
        poison: Some(0xff),
        // Ranks that a schedule holds back let the others wait for long.
        livelock_instructions: if schedule == Schedule::InOrder { 1 << 14 } else { 1 << 24 },
        ..DeviceConfig::default()
    };
    EmulatedGroup::new(Ranks::new(RANKS, RANKS).unwrap(), config).unwrap()
}

/// Each rank has two pages.
fn load(artefact: &Artefact, schedule: Schedule, most_tokens: Option<u64>) -> GroupSession {
    let room = Room { rows: 128, most_tokens };
    let mut last = None;
    let session =
        GroupSession::new(group(schedule), artefact, &weights(), room, &mut |p| last = Some(p));
    let last = last.unwrap();
    assert_eq!(last.done, last.total);
    session.unwrap()
}

#[test]
fn ranks_with_and_without_tokens_agree_with_the_hand() {
    for schedule in [Schedule::InOrder, Schedule::Seeded(0), Schedule::Seeded(1)] {
        let mut session = load(&toy::group::artefact(), schedule, Some(5));
        // Ranks 0 and 3 have no sequence.
        let (a, b) = (session.open_on(2, 6).unwrap(), session.open_on(1, 6).unwrap());
        let c = session.open_on(2, 6).unwrap();
        let prompts: [(SequenceId, &[u32]); 3] = [(a, &[3, 1]), (b, &[7]), (c, &[0, 2, 5])];
        let logits = session.step(Phase::Prefill, &prompts, Rows::All).unwrap();
        for ((_, ids), logits) in prompts.iter().zip(&logits) {
            assert_eq!(*logits, toy::group::expected(ids, 5), "{schedule:?}");
        }
        // Now rank 1 has none either.
        let logits = session.step(Phase::Decode, &[(c, &[4]), (a, &[6])], Rows::Last).unwrap();
        assert_eq!(logits, [toy::group::expected(&[4], 5), toy::group::expected(&[6], 5)]);
        let launched = session.profile().total(Phase::Prefill).launches;
        // Three layers on each rank; `gather` and `head` only where there are tokens.
        assert_eq!(launched, 4 * 3 * 2 + 2 * 2);
    }
}

#[test]
fn sequences_go_where_the_fewest_tokens_are() {
    let mut session = load(&toy::group::artefact(), Schedule::InOrder, None);
    let mut ids = Vec::new();
    // The last finds no page on the rank with the fewest tokens.
    for capacity in [9, 3, 4, 2, 1, 2, 1, 1] {
        ids.push(session.open(capacity).unwrap());
    }
    let placed: Vec<u32> = ids.iter().map(|id| session.rank_of(*id).unwrap()).collect();
    assert_eq!(placed, [0, 1, 2, 3, 3, 1, 2, 0]);
    assert_eq!(session.open(1).unwrap_err()[0].code, "E1202");
    session.close(ids[2]).unwrap();
    let again = session.open(1).unwrap();
    assert_eq!(session.rank_of(again), Some(2));
}

#[test]
fn what_has_no_room_is_refused_and_leaves_the_group_in_order() {
    let mut session = load(&toy::group::artefact(), Schedule::InOrder, Some(2));
    let a = session.open_on(3, 8).unwrap();
    let refused = session.step(Phase::Prefill, &[(a, &[1, 2, 3])], Rows::Last).unwrap_err();
    assert_eq!(refused[0].code, "E1208");
    for part in ["rank 3", "3 tokens", "room for 2"] {
        assert!(refused[0].message.contains(part), "{}", refused[0].message);
    }
    assert_eq!(session.open_on(4, 1).unwrap_err()[0].code, "E1204");
    let logits = session.step(Phase::Prefill, &[(a, &[1, 2])], Rows::All).unwrap();
    assert_eq!(logits[0], toy::group::expected(&[1, 2], 2));
}

#[test]
fn artefacts_for_another_number_of_ranks_are_told() {
    let (artefact, weights) = (toy::group::artefact(), weights());
    let alone = Box::new(device::Emulator::default());
    let refused = Session::new(alone, artefact.clone(), &weights, 64, &mut |_| {}).err().unwrap();
    assert_eq!(refused[0].code, "E1004");
    assert!(refused[0].message.contains("for 4 ranks, 4 per node, and this is one device"));
    let room = Room { rows: 64, most_tokens: None };
    let two = EmulatedGroup::new(Ranks::new(4, 2).unwrap(), DeviceConfig::default()).unwrap();
    let refused = GroupSession::new(two, &artefact, &weights, room, &mut |_| {}).err().unwrap();
    assert_eq!(refused[0].code, "E1004");
    assert!(refused[0].message.contains("a group of 4 ranks, 2 per node"));
    let mut mixed = artefact;
    mixed.phases.get_mut(&Phase::Decode).unwrap().plan.ranks = Some(Ranks::new(2, 2).unwrap());
    let group = group(Schedule::InOrder);
    let refused = GroupSession::new(group, &mixed, &weights, room, &mut |_| {}).err().unwrap();
    assert!(refused[0].message.contains("another group"), "{}", refused[0].message);
}

/// A rank that never tells: all others wait for it.
fn silent() -> Artefact {
    let mut artefact = toy::group::artefact();
    for compiled in artefact.phases.values_mut() {
        compiled.ptx =
            compiled.ptx.replace("tell:\n", "setp.eq.u32 %p1, %r2, 2;\n@%p1 bra done;\ntell:\n");
    }
    artefact
}

#[test]
fn ranks_that_wait_for_one_that_does_not_tell_are_reported() {
    let mut session = load(&silent(), Schedule::InOrder, None);
    let a = session.open_on(0, 4).unwrap();
    let failed = session.step(Phase::Prefill, &[(a, &[1])], Rows::Last).unwrap_err();
    assert_eq!(failed[0].code, "E1107", "{}", failed[0].message);
    // What the ranks share is no longer in order.
    let again = session.step(Phase::Prefill, &[(a, &[1])], Rows::Last).unwrap_err();
    assert_eq!(again[0].code, "E1204");
}
