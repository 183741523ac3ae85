//! Tasks on two lanes, each of which does them one after the other in a fixed order.
//!
//! Since the order is fixed, every end is a maximum of sums of durations: a schedule never gets
//! longer where a task gets shorter.

use std::fmt;

/// The SMs that do a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The SMs that compute.
    Compute,
    /// The SMs that communicate, and the links.
    Communicate,
}

/// What a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// All before the exchange: norms, attention, router.
    Attention,
    /// Writing messages that no SM waits for (low-latency transfers).
    Send,
    /// Tokens to the ranks of their experts.
    Dispatch,
    /// What needs no exchange: shared experts.
    Shared,
    /// The routed experts.
    Experts,
    /// Results back.
    Combine,
    /// Adding up what came back (low-latency transfers).
    Receive,
}

impl Stage {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Send => "send",
            Self::Dispatch => "dispatch",
            Self::Shared => "shared",
            Self::Experts => "experts",
            Self::Combine => "combine",
            Self::Receive => "receive",
        }
    }

    /// Whether tokens are on their way.
    pub fn moves(self) -> bool {
        matches!(self, Self::Dispatch | Self::Combine)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A task and when it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// The SMs that do it.
    pub lane: Lane,
    /// What it is.
    pub stage: Stage,
    /// The layer, from 0.
    pub layer: u32,
    /// The micro-batch, from 0.
    pub micro_batch: u32,
    /// The chunk of the micro-batch, from 0.
    pub chunk: u32,
    /// Seconds from the step's begin until it starts.
    pub start: f64,
    /// Seconds for which it has its lane.
    pub seconds: f64,
    /// Seconds from then until others see what it did.
    pub latency: f64,
    /// The task whose end it waited for last: the way back along the longest chain.
    pub after: Option<usize>,
}

impl Slot {
    /// When its lane is free again.
    pub fn end(&self) -> f64 {
        self.start + self.seconds
    }

    /// When others see what it did.
    pub fn seen(&self) -> f64 {
        self.end() + self.latency
    }
}

/// Tasks in the order in which they were added, which is that of each lane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// The tasks.
    pub slots: Vec<Slot>,
    last: [Option<usize>; 2],
}

impl Schedule {
    /// Adds a task behind those of its lane and after others; `start` and `after` of `slot` are
    /// filled in. Returns its place.
    pub(crate) fn add(&mut self, slot: Slot, needs: &[usize]) -> usize {
        let lane = slot.lane as usize;
        let (mut start, mut after) = (0.0, None);
        let before = self.last[lane].map(|at| (at, self.slots[at].end()));
        let needed = needs.iter().map(|at| (*at, self.slots[*at].seen()));
        for (at, end) in before.into_iter().chain(needed) {
            if end > start || after.is_none() {
                (start, after) = (f64::max(start, end), Some(at));
            }
        }
        self.slots.push(Slot { start, after, ..slot });
        let at = self.slots.len() - 1;
        self.last[lane] = Some(at);
        at
    }

    /// Seconds until all is done and seen.
    pub fn seconds(&self) -> f64 {
        self.slots.iter().map(Slot::seen).fold(0.0, f64::max)
    }

    /// Seconds for which a lane is busy.
    pub fn busy(&self, lane: Lane) -> f64 {
        self.slots.iter().filter(|s| s.lane == lane).map(|s| s.seconds).sum()
    }

    /// Seconds in which tokens are on their way, and those of them in which nothing is computed.
    pub fn communication(&self) -> (f64, f64) {
        let of =
            |moves| self.slots.iter().filter(move |s| s.stage.moves() == moves && s.seconds > 0.0);
        let moving = union(of(true).map(|s| (s.start, s.seen())).collect());
        let computing = union(of(false).map(|s| (s.start, s.end())).collect());
        let total = moving.iter().map(|(a, b)| b - a).sum::<f64>();
        let mut hidden = 0.0;
        let mut computing = computing.into_iter().peekable();
        for (start, end) in moving {
            while let Some((a, b)) = computing.peek().copied() {
                hidden += (b.min(end) - a.max(start)).max(0.0);
                if b > end {
                    break;
                }
                computing.next();
            }
        }
        (total, (total - hidden).max(0.0))
    }

    /// The tasks of the longest chain, last first.
    pub fn chain(&self) -> Vec<&Slot> {
        let last = self.slots.iter().enumerate();
        let mut at = last.max_by(|a, b| a.1.seen().total_cmp(&b.1.seen())).map(|(at, _)| at);
        let mut chain = vec![];
        while let Some(slot) = at {
            chain.push(&self.slots[slot]);
            at = self.slots[slot].after;
        }
        chain
    }
}

/// Intervals joined where they meet, in order.
fn union(mut intervals: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    intervals.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut joined: Vec<(f64, f64)> = vec![];
    for (start, end) in intervals {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// Seconds of each task of a layer, for one micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Before the exchange.
    pub attention: f64,
    /// Writing messages, on compute SMs.
    pub send: f64,
    /// Dispatch, all chunks.
    pub dispatch: f64,
    /// Shared experts.
    pub shared: f64,
    /// Routed experts, one chunk.
    pub experts_chunk: f64,
    /// Combine, all chunks.
    pub combine: f64,
    /// Adding up, on compute SMs.
    pub receive: f64,
    /// From the last byte of a chunk until it is seen.
    pub latency: f64,
}

/// How tasks are put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Layers.
    pub(crate) layers: u32,
    /// Micro-batches in flight.
    pub(crate) micro_batches: u32,
    /// Chunks of a micro-batch.
    pub(crate) chunks: u32,
    /// Whether tokens move while SMs compute, or only between.
    pub(crate) overlapped: bool,
}

/// The schedule of all layers.
///
/// Order within a layer: the attention of every micro-batch, then its experts; tokens move in the
/// same order, so that each exchange lies beside the work of another micro-batch (DeepSeek-V3
/// 3.4.1), and chunks of one beside each other.
pub(crate) fn schedule(times: &Times, shape: Shape) -> Schedule {
    let mut schedule = Schedule::default();
    let n = shape.micro_batches as usize;
    // What the next layer of each micro-batch waits for.
    let mut ready: Vec<Vec<usize>> = vec![vec![]; n];
    let chunks = f64::from(shape.chunks);
    let moves = if shape.overlapped { Lane::Communicate } else { Lane::Compute };
    for layer in 0..shape.layers {
        let slot = |lane, stage, micro_batch: usize, chunk, seconds, latency| Slot {
            lane,
            stage,
            layer,
            micro_batch: micro_batch as u32,
            chunk,
            start: 0.0,
            seconds,
            latency,
            after: None,
        };
        let compute = |stage, b, chunk, seconds| slot(Lane::Compute, stage, b, chunk, seconds, 0.0);
        let mut sent: Vec<Vec<usize>> = vec![];
        for (b, needs) in ready.iter().enumerate() {
            let mut needs = needs.clone();
            if times.receive > 0.0 && layer > 0 {
                needs = vec![schedule.add(compute(Stage::Receive, b, 0, times.receive), &needs)];
            }
            let mut last = schedule.add(compute(Stage::Attention, b, 0, times.attention), &needs);
            if times.send > 0.0 {
                last = schedule.add(compute(Stage::Send, b, 0, times.send), &[last]);
            }
            let dispatch = (0..shape.chunks).map(|chunk| {
                let seconds = times.dispatch / chunks;
                let slot = slot(moves, Stage::Dispatch, b, chunk, seconds, times.latency);
                schedule.add(slot, &[last])
            });
            sent.push(dispatch.collect());
        }
        for (b, sent) in sent.iter().enumerate() {
            if times.shared > 0.0 {
                schedule.add(compute(Stage::Shared, b, 0, times.shared), &[]);
            }
            let experts: Vec<usize> = (0..)
                .zip(sent)
                .map(|(chunk, sent)| {
                    let slot = compute(Stage::Experts, b, chunk, times.experts_chunk);
                    schedule.add(slot, &[*sent])
                })
                .collect();
            let combine = (0..).zip(experts).map(|(chunk, done)| {
                let seconds = times.combine / chunks;
                let slot = slot(moves, Stage::Combine, b, chunk, seconds, times.latency);
                schedule.add(slot, &[done])
            });
            ready[b] = combine.collect();
        }
    }
    if times.receive > 0.0 && shape.layers > 0 {
        for (b, needs) in ready.iter().enumerate() {
            let slot = Slot {
                lane: Lane::Compute,
                stage: Stage::Receive,
                layer: shape.layers - 1,
                micro_batch: b as u32,
                chunk: 0,
                start: 0.0,
                seconds: times.receive,
                latency: 0.0,
                after: None,
            };
            schedule.add(slot, needs);
        }
    }
    schedule
}
