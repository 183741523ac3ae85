//! What the user sees while work takes long: a bar on a terminal, else a line when it is done.

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Work shorter than this is not mentioned where there is no terminal.
const QUIET: Duration = Duration::from_secs(2);

/// A piece of work that can take long.
pub(crate) struct Work {
    what: String,
    begin: Instant,
    bar: Option<ProgressBar>,
}

impl Work {
    /// Work of unknown length.
    pub(crate) fn begin(what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::default_spinner());
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { what: what.to_owned(), begin: Instant::now(), bar }
    }

    /// So many things of so many are done.
    pub(crate) fn count(&self, done: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
                bar.set_style(style);
            }
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    /// So many bytes of so many are done.
    pub(crate) fn bytes(&self, done: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            let template = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_length(total);
        }
        bar.set_position(done);
        if done == total {
            bar.set_message(format!("{} ({})", self.what, HumanBytes(total)));
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let took = self.begin.elapsed();
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None if took > QUIET => eprintln!("{}: {}", self.what, HumanDuration(took)),
            None => {}
        }
    }
}
