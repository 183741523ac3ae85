//! When CTAs ran, in virtual time.

use crate::exec::{Launch, RawMark};
use crate::launch::Span;

/// When each CTA of a run began and ended, by launch, and the marks of `pmevent`.
///
/// An instruction of a warp takes one tick of its SM; SMs and ranks run at the same time. Waiting
/// takes no ticks of its own: time passes by what others do meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeline {
    /// The end of the last launch.
    pub ticks: u64,
    /// In the order in which they ended.
    pub ctas: Vec<CtaSpan>,
    /// In the order in which they were made; only launches that communicate make marks.
    pub marks: Vec<Mark>,
}

/// A CTA's time on its SM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CtaSpan {
    /// The rank.
    pub rank: u32,
    /// The number of the launch in the rank's queue, from 0.
    pub launch: usize,
    /// The CTA's number in the grid.
    pub cta: u64,
    /// The SM that it ran on.
    pub sm: u32,
    /// When it was admitted.
    pub begin: u64,
    /// When its last warp exited.
    pub end: u64,
}

/// A `pmevent` (PTX ISA 9.7.19.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mark {
    /// The rank.
    pub rank: u32,
    /// The number of the launch in the rank's queue, from 0.
    pub launch: usize,
    /// The CTA's number in the grid.
    pub cta: u64,
    /// The warp of the CTA.
    pub warp: u32,
    /// When.
    pub time: u64,
    /// The events, a bit each.
    pub events: u32,
}

impl Timeline {
    pub(super) fn add(
        &mut self,
        of: &Launch<'_>,
        launch: usize,
        (spans, marks): (Vec<Span>, Vec<RawMark>),
    ) {
        let rank = of.rank();
        self.ctas.extend(spans.into_iter().map(|span| {
            let Span { cta, sm, begin, end } = span;
            CtaSpan { rank, launch, cta, sm, begin, end }
        }));
        self.marks.extend(marks.into_iter().map(|mark| {
            let RawMark { cta, warp, time, event: events } = mark;
            Mark { rank, launch, cta, warp, time, events }
        }));
    }
}
