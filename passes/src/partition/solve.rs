//! All ways to divide the SMs, and the fastest of them.

use super::cell::{Cell, CellError};
use super::schedule::{Schedule, Shape, Times, schedule};
use crate::cost::{Load, Machine, Traffic};
use moec_ir::Target;
use std::collections::BTreeMap;

/// Chunks into which the tokens of a micro-batch are divided, at most.
const MOST_CHUNKS: u32 = 16;
/// SMs that communicate, at most, of those of the target: half.
const MOST_SHARE: u32 = 2;

/// One way to do the work.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// SMs that communicate while the others compute; `None` where all SMs do both in turn.
    pub comm_sms: Option<u32>,
    /// SMs that compute.
    pub compute_sms: u32,
    /// Micro-batches in flight.
    pub micro_batches: u32,
    /// Chunks of a micro-batch: work on one begins when its tokens have arrived.
    pub chunks: u32,
    /// Rows and columns of the tiles of gate and up, and of down.
    pub tiles: [[f64; 2]; 2],
    /// Predicted seconds of all layers.
    pub seconds: f64,
    /// Seconds for which compute SMs are busy.
    pub computing: f64,
    /// Seconds in which tokens are on their way.
    pub moving: f64,
    /// Of these, seconds in which nothing is computed.
    pub exposed: f64,
    /// What most of the longest chain of tasks is.
    pub bound: &'static str,
    /// The share of it.
    pub bound_share: f64,
    /// Seconds of the tasks of a layer.
    pub times: Times,
}

impl Alternative {
    /// The share of communication during which something is computed; 1 where there is none.
    pub fn hidden(&self) -> f64 {
        if self.moving > 0.0 { 1.0 - self.exposed / self.moving } else { 1.0 }
    }

    /// When each task of all layers runs.
    pub fn schedule(&self, cell: &Cell) -> Schedule {
        schedule(&self.times, self.shape(cell.layers))
    }

    fn shape(&self, layers: u32) -> Shape {
        let overlapped = self.comm_sms.is_some();
        let (micro_batches, chunks) = (self.micro_batches, self.chunks);
        Shape { layers, micro_batches, chunks, overlapped }
    }
}

/// The alternatives of a cell, fastest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// All of them; of equally fast ones those with fewer SMs that communicate, micro-batches and
    /// chunks first.
    pub alternatives: Vec<Alternative>,
    /// Which is taken: the first, or the first with the SMs that were asked for.
    pub taken: usize,
}

impl Solution {
    /// The one to take.
    pub fn best(&self) -> &Alternative {
        &self.alternatives[self.taken]
    }

    /// The fastest with so many SMs that communicate.
    pub fn with_sms(&self, sms: u32) -> Option<&Alternative> {
        self.alternatives.iter().find(|a| a.comm_sms == Some(sms))
    }

    /// The fastest in which all SMs communicate and compute in turn.
    pub fn in_turn(&self) -> Option<&Alternative> {
        self.alternatives.iter().find(|a| a.comm_sms.is_none())
    }
}

/// Predicts every way to divide the SMs of a target and takes the fastest.
///
/// # Errors
/// A cell whose sizes do not fit each other or the target.
pub fn solve(cell: &Cell, target: &Target) -> Result<Solution, CellError> {
    cell.check(target)?;
    let work = Costs::new(cell, target);
    let one = cell.ranks.is_one();
    let mut alternatives = vec![work.alternative(None, 1, 1)];
    let most = target.sms / MOST_SHARE;
    let counts = (0..=most).chain(cell.fixed.filter(|sms| *sms > most));
    for comm in counts.filter(|sms| !one && cell.allows(*sms) && *sms < target.sms) {
        for micro_batches in 1..=cell.micro_batches.max(1) {
            for chunks in work.depths(target.sms - comm, micro_batches) {
                alternatives.push(work.alternative(Some(comm), micro_batches, chunks));
            }
        }
    }
    alternatives.sort_by(|a, b| {
        let size = |a: &Alternative| (a.comm_sms, a.micro_batches, a.chunks);
        a.seconds.total_cmp(&b.seconds).then(size(a).cmp(&size(b)))
    });
    let fixed = |a: &Alternative| cell.fixed.is_none_or(|sms| a.comm_sms == Some(sms));
    let taken = alternatives.iter().position(|a| one || fixed(a)).unwrap_or(0);
    Ok(Solution { alternatives, taken })
}

/// Rows and columns of the tiles of gate and up, and of down, and what they take.
type TilesAndSeconds = ([[f64; 2]; 2], f64);

/// Costs of a cell's work by the number of SMs that compute, each worked out once.
struct Costs<'a> {
    cell: &'a Cell,
    target: &'a Target,
    /// By micro-batches and SMs: before, send, beside, receive.
    fixed: BTreeMap<(u32, u32), [f64; 4]>,
    /// By micro-batches, chunks and SMs: tiles and seconds of a chunk's experts.
    experts: BTreeMap<(u32, u32, u32), TilesAndSeconds>,
}

impl<'a> Costs<'a> {
    fn new(cell: &'a Cell, target: &'a Target) -> Self {
        let (mut fixed, mut experts) = (BTreeMap::new(), BTreeMap::new());
        let [send, receive] = cell.messages();
        for n in 1..=cell.micro_batches.max(1) {
            let work = [&cell.before, &send, &cell.beside, &receive].map(|work| work.part(n));
            let mut least = [f64::INFINITY; 4];
            for sms in 1..=target.sms {
                let machine = Machine { target: target.clone(), sms, load: Load::Continuous };
                // A kernel may leave SMs idle: more of them never take longer.
                for (least, work) in least.iter_mut().zip(&work) {
                    *least = least.min(work.seconds(&machine));
                }
                fixed.insert((n, sms), least);
            }
            let mut chunks = 1;
            while chunks <= MOST_CHUNKS {
                let mut least = ([[0.0; 2]; 2], f64::INFINITY);
                for sms in 1..=target.sms {
                    let machine = Machine { target: target.clone(), sms, load: Load::Continuous };
                    let with = cell.experts(&machine, n, chunks);
                    if with.1 < least.1 {
                        least = with;
                    }
                    experts.insert((n, chunks, sms), least);
                }
                chunks *= 2;
            }
        }
        Self { cell, target, fixed, experts }
    }

    /// Numbers of chunks: no more than an expert has tiles of rows.
    fn depths(&self, sms: u32, n: u32) -> impl Iterator<Item = u32> {
        let rows = self.experts[&(n, 1, sms)].0[0][0];
        let most = if self.cell.ranks.is_one() { 1 } else { self.cell.row_tiles(n, rows) };
        std::iter::successors(Some(1_u32), |chunks| Some(chunks * 2))
            .take_while(move |chunks| *chunks <= most.min(MOST_CHUNKS))
    }

    fn alternative(&self, comm: Option<u32>, n: u32, chunks: u32) -> Alternative {
        let all = self.target.sms;
        let compute_sms = all - comm.unwrap_or(0);
        let traffic = self.cell.traffic(self.target, n, comm.unwrap_or(all));
        let [attention, send, shared, receive] = self.fixed[&(n, compute_sms)];
        let (tiles, experts_chunk) = self.experts[&(n, chunks, compute_sms)];
        let busy = traffic.map(|t| t.rdma.max(t.nvlink).max(t.sms));
        // What SMs do for low-latency messages is a part of what these take beside their bytes.
        let latency = traffic[0].total - busy[0] - (send + receive) / 2.0;
        let times = Times {
            attention,
            send,
            dispatch: busy[0],
            shared,
            experts_chunk,
            combine: busy[1],
            receive,
            latency: if busy[0] > 0.0 { latency.max(0.0) } else { 0.0 },
        };
        let mut alternative = Alternative {
            comm_sms: comm,
            compute_sms,
            micro_batches: n,
            chunks,
            tiles,
            seconds: 0.0,
            computing: 0.0,
            moving: 0.0,
            exposed: 0.0,
            bound: "",
            bound_share: 0.0,
            times,
        };
        let schedule = alternative.schedule(self.cell);
        alternative.seconds = schedule.seconds();
        alternative.computing =
            schedule.slots.iter().filter(|s| !s.stage.moves()).map(|s| s.seconds).sum();
        (alternative.moving, alternative.exposed) = schedule.communication();
        (alternative.bound, alternative.bound_share) = bound(&schedule, &traffic);
        alternative
    }
}

/// What most of the longest chain is, and its share.
fn bound(schedule: &Schedule, traffic: &[Traffic; 2]) -> (&'static str, f64) {
    let [out, back] = traffic.map(|t| {
        let units = [("network", t.rdma), ("NVLink", t.nvlink), ("communication SMs", t.sms)];
        units.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or("", |(name, _)| name)
    });
    let mut seconds: BTreeMap<&'static str, f64> = BTreeMap::new();
    for slot in schedule.chain() {
        let unit = match slot.stage {
            super::Stage::Dispatch => out,
            super::Stage::Combine => back,
            _ => "compute SMs",
        };
        *seconds.entry(unit).or_default() += slot.seconds;
        *seconds.entry("latency").or_default() += slot.latency;
    }
    let total: f64 = seconds.values().sum();
    let most = seconds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
    most.filter(|_| total > 0.0).map_or(("nothing", 0.0), |(name, s)| (name, s / total))
}
