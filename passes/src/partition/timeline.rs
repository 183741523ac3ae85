//! The predicted schedule as a timeline: a track for each role of SMs and for each link.

use super::{Alternative, Cell, Stage};
use crate::cost::Traffic;
use moec_ir::Target;
use moec_ir::timeline::Timeline;

/// The timeline of an alternative, as one rank sees it.
pub fn timeline(cell: &Cell, alternative: &Alternative, target: &Target) -> Timeline {
    let mut timeline = Timeline::default();
    let phase = cell.phase;
    let group = format!("{phase} on {}, predicted", target.name);
    let comm = alternative.comm_sms.unwrap_or(0);
    let all = alternative.comm_sms.is_none();
    // The first CTAs communicate.
    let compute = match (all, comm) {
        (true, _) | (_, 0) => format!("all {} SMs", target.sms),
        _ => format!("SMs {comm} to {}: compute", target.sms - 1),
    };
    let compute = timeline.track(&group, &compute);
    let moving =
        (comm > 0).then(|| timeline.track(&group, &format!("SMs 0 to {}: communicate", comm - 1)));
    let network = (cell.ranks.nodes() > 1).then(|| timeline.track(&group, "network"));
    let nvlink = (!cell.ranks.is_one()).then(|| timeline.track(&group, "NVLink"));
    let sms = alternative.comm_sms.unwrap_or(target.sms);
    let traffic = cell.traffic(target, alternative.micro_batches, sms);
    let chunks = f64::from(alternative.chunks);
    for slot in &alternative.schedule(cell).slots {
        if slot.seconds <= 0.0 {
            continue;
        }
        let name = format!("{} {}", slot.stage, slot.micro_batch);
        let details = || {
            [
                ("layer", slot.layer.into()),
                ("micro_batch", slot.micro_batch.into()),
                ("chunk", slot.chunk.into()),
            ]
        };
        let exchange: Option<Traffic> = match slot.stage {
            Stage::Dispatch => Some(traffic[0]),
            Stage::Combine => Some(traffic[1]),
            _ => None,
        };
        let Some(exchange) = exchange else {
            timeline.span(compute, &name, slot.start, slot.seconds, details());
            continue;
        };
        let holds_all = all && exchange.sms > 0.0;
        let tracks = [
            (moving.or(holds_all.then_some(compute)), slot.seconds),
            (network, exchange.rdma / chunks),
            (nvlink, exchange.nvlink / chunks),
        ];
        for (track, seconds) in tracks {
            if let Some(track) = track.filter(|_| seconds > 0.0) {
                timeline.span(track, &name, slot.start, seconds, details());
            }
        }
    }
    timeline
}
