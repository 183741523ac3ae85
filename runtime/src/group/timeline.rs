//! What a group ran when, by rank and by what SMs do.

use super::role::Role;
use crate::session::Ready;
use moec_ir::timeline::Timeline;
use std::collections::BTreeMap;

/// Virtual time has no unit; a tick, in which an SM executes an instruction of one warp, is drawn
/// as a nanosecond.
const TICK: f64 = 1e-9;

/// Adds a run that began at a tick: for each launch of a rank a span from when its first CTA was
/// admitted until its last ended, and of kernels that divide their SMs one for each role.
pub(super) fn add(
    timeline: &mut Timeline,
    run: &moec_emulator::Timeline,
    ready: &[Vec<Ready<'_>>],
    begin: u64,
) {
    // First and last tick, and how many CTAs.
    let mut spans: BTreeMap<(u32, usize, Role), (u64, u64, u64)> = BTreeMap::new();
    for cta in &run.ctas {
        let launch = ready.get(cta.rank as usize).and_then(|launches| launches.get(cta.launch));
        let Some(launch) = launch else { continue };
        let role = Role::of(launch.place.kernel, cta.cta);
        let span = spans.entry((cta.rank, cta.launch, role)).or_insert((u64::MAX, 0, 0));
        *span = (span.0.min(cta.begin), span.1.max(cta.end), span.2 + 1);
    }
    for rank in 0..ready.len() {
        for role in Role::ALL {
            timeline.track(&format!("rank {rank}"), role.name());
        }
    }
    for ((rank, launch, role), (first, last, ctas)) in spans {
        let track = timeline.track(&format!("rank {rank}"), role.name());
        let place = &ready[rank as usize][launch].place;
        let start = begin.saturating_add(first) as f64 * TICK;
        let seconds = last.saturating_sub(first) as f64 * TICK;
        let details = [
            ("computes", place.to_string().into()),
            ("ctas", ctas.into()),
            ("layer", place.layer.into()),
        ];
        timeline.span(track, &place.kernel.name, start, seconds, details);
    }
}
