//! The predicted time of a kernel.

use std::fmt;

/// Seconds that a kernel is predicted to take, those in which each unit is busy, and its bytes.
///
/// Units work at the same time; what the busiest does not hide is in [`Estimate::exposed`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Tensor cores, with the last wave's idle ones, the gaps between stages and the softmax that
    /// they wait for.
    pub tensor: f64,
    /// CUDA cores.
    pub cuda: f64,
    /// Shared memory, read by tensor cores.
    pub shared: f64,
    /// L2 to shared memory.
    pub l2: f64,
    /// HBM.
    pub hbm: f64,
    /// Launch, first stage and results, behind which no unit works.
    pub exposed: f64,
    /// The whole.
    pub total: f64,
    /// Bytes to and from HBM.
    pub bytes: f64,
}

impl Estimate {
    /// An estimate whose units are given: `exposed` is added to the time of the busiest.
    pub(crate) fn overlapped(units: Self, exposed: f64) -> Self {
        Self { exposed, total: units.busiest() + exposed, ..units }
    }

    /// Seconds of the busiest unit.
    fn busiest(&self) -> f64 {
        self.units().iter().fold(0.0, |most, (_, seconds)| most.max(*seconds))
    }

    /// The units and their seconds.
    pub fn units(&self) -> [(&'static str, f64); 5] {
        [
            ("tensor", self.tensor),
            ("CUDA", self.cuda),
            ("shared", self.shared),
            ("L2", self.l2),
            ("HBM", self.hbm),
        ]
    }

    /// The busiest unit, or `start` where what no unit hides takes longer.
    pub fn bound(&self) -> &'static str {
        let most = self.busiest();
        let unit = self.units().into_iter().find(|(_, seconds)| *seconds >= most);
        unit.filter(|_| most >= self.exposed).map_or("start", |(name, _)| name)
    }
}

impl std::iter::Sum for Estimate {
    /// One kernel after the other.
    fn sum<I: Iterator<Item = Self>>(kernels: I) -> Self {
        kernels.fold(Self::default(), |a, b| Self {
            tensor: a.tensor + b.tensor,
            cuda: a.cuda + b.cuda,
            shared: a.shared + b.shared,
            l2: a.l2 + b.l2,
            hbm: a.hbm + b.hbm,
            exposed: a.exposed + b.exposed,
            total: a.total + b.total,
            bytes: a.bytes + b.bytes,
        })
    }
}

impl fmt::Display for Estimate {
    /// What bounds the kernel and its share of the time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.busiest().max(self.exposed);
        let share = if self.total > 0.0 { 100.0 * most / self.total } else { 0.0 };
        f.pad(&format!("{} {share:.0} %", self.bound()))
    }
}
