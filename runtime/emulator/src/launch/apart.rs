//! Clusters that cannot influence each other: one after the other, on one host thread or several.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::watch::{Watch, stuck};
use super::{SLICE, Span};
use crate::device::Lane;
use crate::error::Error;
use crate::exec::{Counters, Launch, Progress};
use crate::memory::Region;

/// States for `count` host threads.
pub(crate) fn prepare<'l>(
    lanes: &'l mut Vec<Lane>,
    count: usize,
    launch: &Launch<'_>,
) -> &'l mut [Lane] {
    if lanes.len() < count {
        lanes.resize_with(count, Lane::default);
    }
    for lane in &mut lanes[..count] {
        lane.worker.counters =
            Counters { traffic: launch.counts_traffic.then(Box::default), ..Counters::default() };
        lane.durations.clear();
        lane.worker.sites.clear();
        lane.worker.sites.resize(launch.program.sites as usize, Region::EMPTY);
    }
    &mut lanes[..count]
}

/// Runs clusters one after the other, taking their numbers from `next`.
pub(super) fn run_clusters(
    launch: &Launch<'_>,
    lane: &mut Lane,
    next: &AtomicU64,
    clusters: u64,
    limit: u64,
) -> Result<(), (u64, Error)> {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= clusters {
            return Ok(());
        }
        lane.cluster.start(index, launch, &[]);
        let before = lane.worker.counters.warp_instructions;
        let mut watch = Watch::new(limit);
        loop {
            match lane.cluster.run(SLICE, launch, &mut lane.worker) {
                Ok(Progress::Done) => break,
                Ok(Progress::Running) if watch.goes_on(lane) => {}
                Ok(state) => {
                    return Err((index, stuck(launch, &mut [&lane.cluster].into_iter(), 0, state)));
                }
                Err(error) => return Err((index, error)),
            }
        }
        if launch.member.is_some() {
            lane.durations.push((index, lane.worker.counters.warp_instructions - before));
        }
    }
}

/// When the CTAs of a launch that [`run_clusters`] has run would have run on the SMs of the device,
/// from time `now` on: each SM runs one cluster after the other, the next one where there is room
/// first.
pub(crate) fn line_up(launch: &Launch<'_>, lanes: &mut [Lane], now: u64) -> Vec<Span> {
    let all = lanes.iter_mut().flat_map(|lane| std::mem::take(&mut lane.durations));
    let mut durations: Vec<(u64, u64)> = all.collect();
    durations.sort_unstable();
    let size = u64::from(launch.cluster.iter().product::<u32>());
    let mut free: BTreeSet<(u64, u32)> = (0..launch.sm_count).map(|sm| (now, sm)).collect();
    let mut spans = Vec::with_capacity(durations.len());
    for (index, ticks) in durations {
        let sms: Vec<(u64, u32)> = (0..size).filter_map(|_| free.pop_first()).collect();
        let begin = sms.iter().map(|&(time, _)| time).max().unwrap_or(now);
        let end = begin + ticks.div_ceil(size);
        for (cta, &(_, sm)) in (index * size..).zip(&sms) {
            spans.push(Span { cta, sm, begin, end });
        }
        free.extend(sms.into_iter().map(|(_, sm)| (end, sm)));
    }
    spans
}

/// Runs clusters that cannot influence each other on several host threads.
pub(super) fn run_apart(
    launch: &Launch<'_>,
    pool: &rayon::ThreadPool,
    lanes: &mut [Lane],
    clusters: u64,
    limit: u64,
) -> Result<Counters, Error> {
    let next = AtomicU64::new(0);
    // The fault of the lowest cluster is reported, so that the report does not depend on threads.
    let first: Mutex<Option<(u64, Error)>> = Mutex::new(None);
    pool.scope(|scope| {
        for lane in lanes.iter_mut() {
            scope.spawn(|_| {
                if let Err((index, error)) = run_clusters(launch, lane, &next, clusters, limit) {
                    next.fetch_max(clusters, Ordering::Relaxed);
                    let mut first = first.lock().unwrap_or_else(|poison| poison.into_inner());
                    if first.as_ref().is_none_or(|(lowest, _)| index < *lowest) {
                        *first = Some((index, error));
                    }
                }
            });
        }
    });
    if let Some((_, error)) = first.into_inner().unwrap_or_else(|poison| poison.into_inner()) {
        return Err(error);
    }
    let mut sum = Counters::default();
    for lane in lanes.iter() {
        sum.add(&lane.worker.counters);
    }
    Ok(sum)
}
