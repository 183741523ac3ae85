//! Timelines, predicted or executed, as text that Perfetto and `chrome://tracing` draw.
//!
//! The form is that of Chrome's trace events, which Perfetto reads: complete events (`X`) with
//! microseconds, names of processes and threads as metadata (`M`).
//!
//! ```
//! use moec_ir::timeline::Timeline;
//! let mut timeline = Timeline::default();
//! let sms = timeline.track("rank 0", "compute SMs");
//! timeline.span(sms, "attention", 0.0, 2e-6, [("layer", 3.into())]);
//! assert!(timeline.to_string().contains(r#""dur":2.0"#));
//! ```

use serde_json::{Map, Value, json};
use std::fmt;

/// What ran when, on tracks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Group and name of each track.
    tracks: Vec<(String, String)>,
    spans: Vec<Span>,
}

/// A track of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track(usize);

#[derive(Clone, Debug, PartialEq)]
struct Span {
    track: usize,
    name: String,
    start: f64,
    seconds: f64,
    details: Map<String, Value>,
}

impl Timeline {
    /// The track of a name within a group (a rank, say), which is added where it is new. Tracks are
    /// drawn in the order in which they were added.
    pub fn track(&mut self, group: &str, name: &str) -> Track {
        let same = |(g, n): &(String, String)| g == group && n == name;
        let at = self.tracks.iter().position(same).unwrap_or_else(|| {
            self.tracks.push((group.to_owned(), name.to_owned()));
            self.tracks.len() - 1
        });
        Track(at)
    }

    /// Adds what ran on a track from a second on, for some seconds, with what there is to say.
    pub fn span<'a>(
        &mut self,
        track: Track,
        name: &str,
        start: f64,
        seconds: f64,
        details: impl IntoIterator<Item = (&'a str, Value)>,
    ) {
        let details = details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        self.spans.push(Span { track: track.0, name: name.to_owned(), start, seconds, details });
    }

    /// Number of the group of a track, from 1, in order of appearance.
    fn group(&self, track: usize) -> usize {
        let mut names: Vec<&str> = vec![];
        for (group, _) in &self.tracks[..=track] {
            if !names.contains(&group.as_str()) {
                names.push(group);
            }
        }
        let own = &self.tracks[track].0;
        names.iter().position(|name| name == own).map_or(1, |at| at + 1)
    }

    fn events(&self) -> Vec<Value> {
        let groups: Vec<usize> = (0..self.tracks.len()).map(|track| self.group(track)).collect();
        let mut events = vec![];
        let mut named = 0;
        for (track, (group, name)) in self.tracks.iter().enumerate() {
            let (pid, tid) = (groups[track], track + 1);
            if pid > named {
                named = pid;
                events.push(json!({
                    "ph": "M", "name": "process_name", "pid": pid, "args": { "name": group }
                }));
            }
            events.push(json!({
                "ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": { "name": name }
            }));
            events.push(json!({
                "ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid,
                "args": { "sort_index": track }
            }));
        }
        let mut spans: Vec<&Span> = self.spans.iter().collect();
        spans.sort_by(|a, b| a.start.total_cmp(&b.start).then(a.track.cmp(&b.track)));
        events.extend(spans.into_iter().map(|span| {
            json!({
                "ph": "X", "name": span.name, "pid": groups[span.track], "tid": span.track + 1,
                "ts": microseconds(span.start), "dur": microseconds(span.seconds),
                "args": span.details
            })
        }));
        events
    }
}

/// Whole nanoseconds, in microseconds.
fn microseconds(seconds: f64) -> f64 {
    (seconds * 1e9).round() / 1e3
}

impl fmt::Display for Timeline {
    /// The trace, an event a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        for (at, event) in self.events().iter().enumerate() {
            write!(f, "{}\n{event}", if at > 0 { "," } else { "" })?;
        }
        f.write_str("\n]}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Timeline {
        let mut timeline = Timeline::default();
        let compute = timeline.track("rank 0", "compute SMs");
        let link = timeline.track("rank 0", "network");
        let other = timeline.track("rank 1", "compute SMs");
        timeline.span(link, "dispatch", 1e-6, 2.5e-6, [("bytes", 7.into())]);
        timeline.span(compute, "attention", 0.0, 1e-6, []);
        timeline.span(other, "attention", 0.0, 1e-6, []);
        timeline
    }

    #[test]
    fn tracks_are_named_once_and_spans_are_in_order_of_time() {
        let mut timeline = sample();
        assert_eq!(timeline.track("rank 0", "network"), Track(1));
        let trace: Value = serde_json::from_str(&timeline.to_string()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let named = |kind: &str| {
            let of = events.iter().filter(|e| e["name"] == kind);
            of.map(|e| e["args"]["name"].as_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(named("process_name"), ["rank 0", "rank 1"]);
        assert_eq!(named("thread_name"), ["compute SMs", "network", "compute SMs"]);
        let spans: Vec<_> = events.iter().filter(|e| e["ph"] == "X").collect();
        assert_eq!(spans[2]["name"], "dispatch");
        assert_eq!((&spans[2]["ts"], &spans[2]["dur"]), (&json!(1.0), &json!(2.5)));
        assert_eq!((&spans[2]["pid"], &spans[2]["tid"]), (&json!(1), &json!(2)));
        assert_eq!((&spans[1]["pid"], &spans[1]["tid"]), (&json!(2), &json!(3)));
        assert_eq!(spans[2]["args"]["bytes"], 7);
    }

    #[test]
    fn the_same_spans_give_the_same_bytes() {
        assert_eq!(sample().to_string(), sample().to_string());
    }
}
