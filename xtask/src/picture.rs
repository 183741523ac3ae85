//! Pictures of timelines: the traces that `moec build --emit timeline` and `moec simulate
//! --timeline` write, as SVG for pages.
//!
//! A track is a row, a span a bar; the colour says what runs. Traces stand one below the other,
//! each with a time axis of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use svg::Document;
use svg::node::element::{Rectangle, Text, Title};

/// Pixels of the whole picture, of the names of tracks, of a row, and between traces.
const WIDTH: f64 = 1100.0;
const NAMES: f64 = 300.0;
const ROW: f64 = 18.0;
const GAP: f64 = 46.0;
/// Okabe and Ito's colours, which people who see few colours tell apart (jfly.uni-koeln.de/color),
/// and two of Paul Tol's.
const COLOURS: [&str; 10] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999",
    "#882255", "#117733",
];

/// A trace: its rows and what runs on them.
struct Trace {
    title: String,
    rows: Vec<String>,
    spans: Vec<Span>,
}

struct Span {
    row: usize,
    name: String,
    start: f64,
    end: f64,
}

/// Draws traces into one picture: their first rows, and what begins before `until` microseconds.
///
/// # Errors
/// A file that cannot be read or written, or that is no trace.
pub fn picture(traces: &[PathBuf], most_rows: usize, until: f64, to: &Path) -> Result<()> {
    let traces = traces.iter().map(|path| Trace::read(path, most_rows, until));
    let traces = traces.collect::<Result<Vec<Trace>>>()?;
    let mut colours: BTreeMap<&str, &str> = BTreeMap::new();
    let mut legend: Vec<&str> = vec![];
    for span in traces.iter().flat_map(|trace| &trace.spans) {
        if !colours.contains_key(span.name.as_str()) {
            colours.insert(&span.name, COLOURS[legend.len() % COLOURS.len()]);
            legend.push(&span.name);
        }
    }
    let mut document = Document::new();
    let mut top = 0.0;
    for trace in &traces {
        document = trace.draw(document, top, &colours);
        top += trace.rows.len() as f64 * ROW + GAP;
    }
    let mut left = NAMES;
    for name in legend {
        let width = 40.0 + 7.0 * name.len() as f64;
        if left + width > WIDTH {
            (left, top) = (NAMES, top + ROW);
        }
        let key = Rectangle::new().set("x", left).set("y", top).set("width", 12).set("height", 12);
        document = document.add(key.set("fill", colours[name]));
        document = document.add(text(name, left + 16.0, top + 10.0));
        left += width;
    }
    let height = top + 24.0;
    let document = document
        .set("viewBox", (0, 0, WIDTH as i64, height as i64))
        .set("font-family", "sans-serif")
        .set("font-size", 11);
    svg::save(to, &document).with_context(|| format!("cannot write {}", to.display()))
}

impl Trace {
    fn read(path: &Path, most_rows: usize, until: f64) -> Result<Self> {
        let file =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let json: Value = serde_json::from_slice(&file)
            .with_context(|| format!("{} is not JSON", path.display()))?;
        let events = json["traceEvents"].as_array();
        let events = events.with_context(|| format!("{} is not a trace", path.display()))?;
        let mut groups: BTreeMap<u64, &str> = BTreeMap::new();
        let mut rows: Vec<((u64, u64), String)> = vec![];
        let of = |event: &Value| {
            (event["pid"].as_u64().unwrap_or(0), event["tid"].as_u64().unwrap_or(0))
        };
        for event in events {
            let named = event["args"]["name"].as_str().unwrap_or("");
            match event["name"].as_str() {
                Some("process_name") => {
                    groups.insert(of(event).0, named);
                }
                Some("thread_name") => {
                    let group = groups.get(&of(event).0).copied().unwrap_or("");
                    rows.push((of(event), format!("{group}: {named}")));
                }
                _ => {}
            }
        }
        rows.truncate(most_rows);
        let spans = events.iter().filter(|event| event["ph"] == "X").filter_map(|event| {
            let row = rows.iter().position(|(id, _)| *id == of(event))?;
            let start = event["ts"].as_f64().filter(|start| *start < until)?;
            let name = event["name"].as_str()?.to_owned();
            Some(Span { row, name, start, end: start + event["dur"].as_f64()? })
        });
        let spans: Vec<Span> = spans.collect();
        ensure!(!spans.is_empty(), "{} holds nothing to draw", path.display());
        let title = path.file_stem().map(|name| name.to_string_lossy().replace('_', " "));
        let rows = rows.into_iter().map(|(_, name)| name).collect();
        Ok(Self { title: title.unwrap_or_default(), rows, spans })
    }

    fn draw(&self, mut to: Document, top: f64, colours: &BTreeMap<&str, &str>) -> Document {
        let first = self.spans.iter().map(|s| s.start).fold(f64::INFINITY, f64::min);
        let last = self.spans.iter().map(|s| s.end).fold(0.0, f64::max);
        let scale = (WIDTH - NAMES - 10.0) / (last - first).max(f64::MIN_POSITIVE);
        let at = |time: f64| NAMES + (time - first) * scale;
        let end = format!("{:.1} us", last - first);
        to = to.add(text(&self.title, NAMES, top + 12.0).set("font-weight", "bold"));
        to = to.add(text(&end, WIDTH - 10.0, top + 12.0).set("text-anchor", "end"));
        let rows = top + 18.0;
        for (row, name) in self.rows.iter().enumerate() {
            let y = rows + row as f64 * ROW;
            to = to.add(text(name, NAMES - 6.0, y + 12.0).set("text-anchor", "end"));
        }
        for span in &self.spans {
            let (left, right) = (at(span.start), at(span.end));
            let bar = Rectangle::new()
                .set("x", round(left))
                .set("y", round(rows + span.row as f64 * ROW + 1.0))
                .set("width", round((right - left).max(0.4)))
                .set("height", ROW - 3.0)
                .set("fill", colours[span.name.as_str()]);
            to = to.add(bar.add(Title::new(span.name.clone())));
        }
        to
    }
}

fn text(words: &str, x: f64, y: f64) -> Text {
    Text::new(words).set("x", round(x)).set("y", round(y))
}

/// To tenths of a pixel: more makes files, not pictures.
fn round(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_drawn_a_row_for_each_track_and_a_bar_for_each_span() {
        let folder = std::env::temp_dir().join(format!("moec-picture-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (trace, to) = (folder.join("two_tracks.json"), folder.join("picture.svg"));
        let json = r#"{"traceEvents": [
            {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "rank 0"}},
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "comm"}},
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "compute"}},
            {"ph": "X", "name": "send", "pid": 1, "tid": 1, "ts": 0.0, "dur": 2.0},
            {"ph": "X", "name": "multiply", "pid": 1, "tid": 2, "ts": 1.0, "dur": 3.0}]}"#;
        std::fs::write(&trace, json).unwrap();
        picture(std::slice::from_ref(&trace), 100, 9.0, &to).unwrap();
        let drawn = std::fs::read_to_string(&to).unwrap();
        for words in ["two tracks", "rank 0: comm", "rank 0: compute", "send", "multiply", "4.0 us"]
        {
            assert!(drawn.contains(words), "{words} in {drawn}");
        }
        std::fs::write(&trace, r#"{"traceEvents": []}"#).unwrap();
        assert!(picture(&[trace], 100, 9.0, &to).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
