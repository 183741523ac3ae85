//! Feeds broken inputs to the parsers and loaders; they must answer, never panic.

use crate::corpus::files;
use crate::mutate::Mutator;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What takes input that a user, or somebody else, may have broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The `.moe` language: parser, checker and formatter.
    Moe,
    /// The import of a Hugging Face `config.json`.
    Config,
    /// The emulator's PTX parser and decoder.
    Ptx,
    /// The loader of checkpoints.
    Safetensors,
}

impl Subject {
    /// All of them, by the name that [`Subject::named`] takes.
    pub const ALL: [(&'static str, Self); 4] = [
        ("moe", Self::Moe),
        ("config", Self::Config),
        ("ptx", Self::Ptx),
        ("safetensors", Self::Safetensors),
    ];

    /// The subject of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(n, _)| *n == name).map(|(_, s)| s)
    }

    /// Good inputs to start from.
    fn seeds(self) -> Vec<Vec<u8>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let (folder, extension) = match self {
            Self::Moe => ("examples", "moe"),
            Self::Config => ("tests/corpus", "json"),
            Self::Ptx => ("runtime/emulator/tests", "ptx"),
            Self::Safetensors => ("runtime/emulator/tests", "safetensors"),
        };
        let found = files(&root.join(folder)).unwrap_or_default();
        let wanted = found.iter().filter(|p| p.extension().is_some_and(|e| e == extension));
        wanted.filter_map(|p| fs::read(p).ok()).filter(|b| b.len() < 200_000).collect()
    }

    fn feed(self, input: &[u8], scratch: &Path) {
        let text = String::from_utf8_lossy(input);
        match self {
            Self::Moe => {
                let _ = moec_frontend::format(&text);
                if let Ok(ast) = moec_frontend::parse(&text) {
                    let _ = moec_frontend::check(&ast);
                }
            }
            Self::Config => drop(moec_frontend::import(&text, None, None)),
            Self::Ptx => drop(moec_emulator::Module::parse(&text)),
            Self::Safetensors => {
                if fs::write(scratch.join("model.safetensors"), input).is_ok() {
                    drop(moec_runtime::Checkpoint::open(scratch));
                }
            }
        }
    }
}

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// So many inputs: the same every time.
    Inputs(u64),
    /// So long.
    Time(Duration),
}

/// Feeds broken inputs from `seed` on until the budget is spent; the number fed.
///
/// # Errors
/// The first input that made the subject panic: the path it was written to.
pub fn run(subject: Subject, seed: u64, budget: Budget) -> Result<u64, PathBuf> {
    let seeds = subject.seeds();
    assert!(!seeds.is_empty(), "there is nothing to start from for {subject:?}");
    let scratch = tempfile::tempdir().unwrap_or_else(|e| panic!("no temporary folder: {e}"));
    let start = Instant::now();
    let mut fed = 0;
    loop {
        match budget {
            Budget::Inputs(n) if fed >= n => return Ok(fed),
            Budget::Time(t) if start.elapsed() >= t => return Ok(fed),
            _ => {}
        }
        let input = Mutator::new(seed.wrapping_add(fed)).mutate(&seeds);
        if catch_unwind(AssertUnwindSafe(|| subject.feed(&input, scratch.path()))).is_err() {
            let path = std::env::temp_dir().join(format!("moec-panic-{subject:?}-{seed}-{fed}"));
            return fs::write(&path, &input).map_or_else(|e| panic!("{e}"), |()| Err(path));
        }
        fed += 1;
    }
}
