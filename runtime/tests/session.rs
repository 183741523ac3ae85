//! A toy model runs on the emulator as it computes by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod toy;

use moec_runtime::device::{Counters, KernelArg, KernelId, LaunchShape};
use moec_runtime::generate::Options;
use moec_runtime::{Checkpoint, Device, Engine, Phase, Rows, Session, device, generate};
use std::sync::{Arc, Mutex};

type Result<T> = std::result::Result<T, Vec<moec_ir::Diagnostic>>;

fn session(slots: u64) -> Session {
    session_on(Box::new(device::Emulator::default()), slots)
}

fn session_on(device: Box<dyn Device>, slots: u64) -> Session {
    let folder = tempfile::tempdir().unwrap();
    toy::write(&folder.path().join("model.safetensors"), &toy::tensors());
    let weights = Checkpoint::open(folder.path()).unwrap();
    let mut last = None;
    let session =
        Session::new(device, toy::artefact(), &weights, slots, &mut |p| last = Some(p)).unwrap();
    let last = last.unwrap();
    assert_eq!(last.done, last.total);
    session
}

#[test]
fn prefill_then_decode_of_a_batch_agrees_with_the_hand() {
    let mut session = session(128);
    let (a, b) = (session.open(6).unwrap(), session.open(10).unwrap());
    let (ids_a, ids_b): ([u32; 3], [u32; 5]) = ([3, 1, 7], [0, 2, 2, 6, 5]);
    let logits =
        session.step(Phase::Prefill, &[(a, &ids_a[..2]), (b, &ids_b[..4])], Rows::All).unwrap();
    assert_eq!(logits[0], toy::expected(&ids_a[..2], &[6, 6]).concat());
    assert_eq!(logits[1], toy::expected(&ids_b[..4], &[6; 4]).concat());
    // The other way round, so that sequences do not stand in cache order.
    let logits =
        session.step(Phase::Decode, &[(b, &ids_b[4..]), (a, &ids_a[2..])], Rows::Last).unwrap();
    assert_eq!(logits[0], toy::expected(&ids_b, &[6, 6, 6, 6, 8])[4]);
    assert_eq!(logits[1], toy::expected(&ids_a, &[6, 6, 8])[2]);
}

/// An emulator that writes down what is asked of it.
struct Watched {
    inner: device::Emulator,
    calls: Arc<Mutex<Vec<&'static str>>>,
}

impl Watched {
    fn called(&self, what: &'static str) {
        self.calls.lock().unwrap().push(what);
    }
}

impl Device for Watched {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn alloc(&mut self, bytes: u64, name: &str) -> Result<u64> {
        self.called("alloc");
        self.inner.alloc(bytes, name)
    }
    fn free(&mut self, address: u64) -> Result<()> {
        self.called("free");
        self.inner.free(address)
    }
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.called("write");
        self.inner.write(address, bytes)
    }
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.called("read");
        self.inner.read(address, bytes)
    }
    fn load(&mut self, ptx: &str, kernels: &[&str]) -> Result<Vec<KernelId>> {
        self.inner.load(ptx, kernels)
    }
    fn launch(&mut self, k: KernelId, shape: &LaunchShape, args: &[KernelArg]) -> Result<Counters> {
        self.called("launch");
        self.inner.launch(k, shape, args)
    }
    fn synchronize(&mut self) -> Result<()> {
        self.called("synchronize");
        self.inner.synchronize()
    }
}

/// What a CUDA graph demands: between the first and the last launch of a step there is nothing
/// else, and buffers stay where they are.
#[test]
fn launches_of_a_step_follow_each_other_and_the_next_step_reserves_nothing() {
    let calls = Arc::new(Mutex::new(vec![]));
    let device = Watched { inner: device::Emulator::default(), calls: Arc::clone(&calls) };
    let mut session = session_on(Box::new(device), 8);
    let a = session.open(8).unwrap();
    let step = |session: &mut Session, phase, ids: &[u32]| {
        calls.lock().unwrap().clear();
        session.step(phase, &[(a, ids)], Rows::Last).unwrap();
        calls.lock().unwrap().clone()
    };
    for asked in [
        step(&mut session, Phase::Prefill, &[1, 2]),
        step(&mut session, Phase::Decode, &[3]),
        step(&mut session, Phase::Decode, &[4]),
    ] {
        let first = asked.iter().position(|call| *call == "launch").unwrap();
        let last = asked.iter().rposition(|call| *call == "launch").unwrap();
        assert!(asked[first..last].iter().all(|call| *call == "launch"), "{asked:?}");
    }
    let again = step(&mut session, Phase::Decode, &[5]);
    assert!(!again.contains(&"alloc") && !again.contains(&"free"), "{again:?}");
}

#[test]
fn the_profile_counts_every_launch() {
    let mut session = session(4);
    let a = session.open(4).unwrap();
    session.step(Phase::Prefill, &[(a, &[1, 2])], Rows::Last).unwrap();
    session.step(Phase::Decode, &[(a, &[3])], Rows::Last).unwrap();
    let launches: Vec<_> = session
        .profile()
        .kernels()
        .filter(|(phase, _, _)| *phase == Phase::Decode)
        .map(|(_, name, k)| (name.to_owned(), k.launches))
        .collect();
    let expected = [("attend_0", 2), ("gather_0", 2), ("head_0", 1), ("remember_0", 2)];
    assert_eq!(launches, expected.map(|(name, n)| (name.to_owned(), n)));
    let total = session.profile().total(Phase::Prefill);
    assert_eq!(total.launches, 7);
    assert!(total.counters.warp_instructions > 0 && total.counters.load_bytes > 0);
    session.reset_profile();
    assert_eq!(session.profile().total(Phase::Decode).launches, 0);
}

#[test]
fn a_closed_sequence_gives_its_rows_to_the_next() {
    let mut session = session(8);
    let a = session.open(8).unwrap();
    session.step(Phase::Prefill, &[(a, &[5, 5, 5])], Rows::Last).unwrap();
    assert_eq!(session.open(1).unwrap_err()[0].code, "E1202");
    session.close(a).unwrap();
    let b = session.open(8).unwrap();
    let logits = session.step(Phase::Prefill, &[(b, &[4])], Rows::Last).unwrap();
    assert_eq!(logits[0], toy::expected(&[4], &[1])[0]);
    let closed = session.step(Phase::Decode, &[(a, &[1])], Rows::Last).unwrap_err();
    assert_eq!(closed[0].code, "E1204");
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let mut session = session(64);
    let too_long = session.open(13).unwrap_err();
    assert_eq!(too_long[0].code, "E1201");
    assert!(too_long[0].message.contains("13") && too_long[0].message.contains("12"));
    let a = session.open(2).unwrap();
    let code = |s: &mut Session, batch: &[(moec_runtime::SequenceId, &[u32])]| {
        s.step(Phase::Prefill, batch, Rows::Last).unwrap_err()[0].code
    };
    assert_eq!(code(&mut session, &[(a, &[1, 2, 3])]), "E1201");
    assert_eq!(code(&mut session, &[(a, &[8])]), "E1203");
    assert_eq!(code(&mut session, &[(a, &[])]), "E1204");
    assert_eq!(code(&mut session, &[(a, &[1]), (a, &[1])]), "E1204");
    assert_eq!(code(&mut session, &[]), "E1204");
    // Nothing was remembered of the refused steps.
    let logits = session.step(Phase::Prefill, &[(a, &[1, 2])], Rows::All).unwrap();
    assert_eq!(logits[0], toy::expected(&[1, 2], &[2, 2]).concat());
}

#[test]
fn an_artefact_of_one_phase_runs_both() {
    let folder = tempfile::tempdir().unwrap();
    toy::write(&folder.path().join("model.safetensors"), &toy::tensors());
    let weights = Checkpoint::open(folder.path()).unwrap();
    let mut artefact = toy::artefact();
    artefact.phases.remove(&Phase::Decode);
    let device = Box::new(device::Emulator::default());
    let mut session = Session::new(device, artefact, &weights, 4, &mut |_| {}).unwrap();
    let a = session.open(4).unwrap();
    session.step(Phase::Prefill, &[(a, &[1, 2])], Rows::Last).unwrap();
    let logits = session.step(Phase::Decode, &[(a, &[3])], Rows::Last).unwrap();
    assert_eq!(logits[0], toy::expected(&[1, 2, 3], &[2, 2, 3])[2]);
}

#[test]
fn generation_is_greedy_stops_and_repeats_itself() {
    let mut session = session(128);
    let prompts = [vec![1, 2], vec![3]];
    let mut options = Options { max_new_tokens: 5, ..Options::default() };
    let mut heard = vec![Vec::new(); 2];
    let ids = generate(&mut session, &prompts, &options, &mut |i, id| {
        heard[i].push(id);
        Ok(())
    })
    .unwrap();
    assert_eq!(heard, ids);
    assert!(ids.iter().all(|ids| ids.len() == 5), "{ids:?}");
    // The first token by hand: the best of the last token's logits.
    let logits = &toy::expected(&[1, 2], &[3, 3])[1];
    let best = logits.iter().copied().fold(f32::MIN, f32::max);
    assert_eq!(logits[ids[0][0] as usize], best);

    options.stop.insert(ids[0][0]);
    let stopped = generate(&mut session, &prompts[..1], &options, &mut |_, _| Ok(())).unwrap();
    assert_eq!(stopped[0], ids[0][..1]);

    options.stop.clear();
    options.sampling.temperature = 2.0;
    let mut draw = || generate(&mut session, &prompts, &options, &mut |_, _| Ok(())).unwrap();
    assert_eq!(draw(), draw());

    let mut long = options.clone();
    long.max_new_tokens = 12;
    let refused = generate(&mut session, &prompts[..1], &long, &mut |_, _| Ok(())).unwrap_err();
    assert_eq!(refused[0].code, "E1201");
}
