//! What a compilation leaves: per phase a plan and its PTX, in one directory.
//!
//! ```text
//! ARTEFACT/manifest.json        format, model, source; of each phase the length and CRC-32 of its
//!                               files, and which sizes a CUDA graph of a step holds fixed
//! ARTEFACT/prefill/plan.json    the plan with its geometry
//! ARTEFACT/prefill/kernels.ptx  every kernel of the plan
//! ARTEFACT/decode/..            the same
//! ```

mod validate;

pub use validate::validate;

use crate::{Result, fail};
use moec_ir::plan::{FORMAT, PlanEntry};
use moec_ir::{Diagnostic, Phase, Plan, Sym};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A model compiled for one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Artefact {
    /// The model's name.
    pub model: String,
    /// What the phases have in common beside the name: a digest of the typed graph and the
    /// target. Phases of different sources are never mixed in one directory.
    pub source: String,
    /// At least one phase.
    pub phases: BTreeMap<Phase, Compiled>,
}

/// A plan and the PTX of its kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// The plan; every kernel has its geometry.
    pub plan: Plan,
    /// One module with an entry for each kernel.
    pub ptx: String,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    model: String,
    source: String,
    phases: BTreeMap<Phase, PhaseFiles>,
}

#[derive(Serialize, Deserialize)]
struct PhaseFiles {
    plan: Stamp,
    ptx: Stamp,
    /// Of each entry: [`Plan::fixed_by_capture`].
    #[serde(default)]
    cuda_graph: BTreeMap<String, CudaGraph>,
}

/// A step can be captured as a CUDA graph.
#[derive(Serialize, Deserialize)]
struct CudaGraph {
    /// Sizes that a graph holds fixed; it is right for any step of the same.
    fixed: Vec<Sym>,
}

impl CudaGraph {
    fn of(plan: &Plan) -> BTreeMap<String, Self> {
        let of = |entry: &PlanEntry| {
            Some((entry.name.clone(), Self { fixed: plan.fixed_by_capture(&entry.name)? }))
        };
        plan.entries.iter().filter_map(of).collect()
    }
}

/// Length and CRC-32 of a file.
#[derive(PartialEq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    crc32: u32,
}

impl Stamp {
    fn of(content: &[u8]) -> Self {
        Self { bytes: content.len() as u64, crc32: crc32fast::hash(content) }
    }
}

const MANIFEST: &str = "manifest.json";
const PLAN: &str = "plan.json";
const PTX: &str = "kernels.ptx";

/// A digest of a text, for [`Artefact::source`]: length and CRC-32.
pub fn digest(text: &str) -> String {
    format!("{:x}-{:08x}", text.len(), crc32fast::hash(text.as_bytes()))
}

impl Artefact {
    /// Whether a path looks like an artefact: a directory with a manifest.
    pub fn is_at(path: &Path) -> bool {
        path.join(MANIFEST).is_file()
    }

    /// Reads an artefact and checks that it is whole and its plans consistent.
    ///
    /// # Errors
    /// E1001 unreadable, E1002 another format, E1003 damaged, E1004 an inconsistent plan.
    pub fn read(dir: &Path) -> Result<Self> {
        let text = read_file(&dir.join(MANIFEST))?;
        let manifest = parse_manifest(dir, &text)?;
        let mut phases = BTreeMap::new();
        for (phase, files) in manifest.phases {
            let folder = dir.join(phase.name());
            let plan = read_stamped(&folder.join(PLAN), &files.plan)?;
            let ptx = read_stamped(&folder.join(PTX), &files.ptx)?;
            let plan: Plan = serde_json::from_str(&plan).map_err(|e| {
                vec![damaged(&folder.join(PLAN), &format!("it is not a plan: {e}"))]
            })?;
            if plan.format != FORMAT {
                return fail(other_format(&folder.join(PLAN), u64::from(plan.format)));
            }
            validate(&plan)?;
            phases.insert(phase, Compiled { plan, ptx });
        }
        if phases.is_empty() {
            return fail(damaged(&dir.join(MANIFEST), "it lists no phase"));
        }
        Ok(Self { model: manifest.model, source: manifest.source, phases })
    }

    /// Writes an artefact as a whole: readers see the old one or the new one.
    ///
    /// Phases that the directory already holds of the same source are kept beside the new ones.
    ///
    /// # Errors
    /// E1005: the directory holds something else, or writing fails; what was there before is
    /// then still there.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let cannot = |e: std::io::Error| vec![unwritable(dir, &e.to_string())];
        let exists = dir.exists();
        let empty = exists && fs::read_dir(dir).map_err(cannot)?.next().is_none();
        if exists && !empty && !Self::is_at(dir) {
            let why = "it exists and is not an artefact";
            return fail(unwritable(dir, why).help("name a new or empty directory"));
        }
        let mut whole = self.clone();
        if let Ok(old) = Self::read(dir)
            && (&old.model, &old.source) == (&self.model, &self.source)
        {
            for (phase, compiled) in old.phases {
                whole.phases.entry(phase).or_insert(compiled);
            }
        }
        let parent = match dir.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).map_err(cannot)?;
        let fresh = tempfile::Builder::new()
            .prefix(".moec-artefact-")
            .tempdir_in(&parent)
            .map_err(cannot)?;
        whole.write_files(fresh.path()).map_err(cannot)?;
        swap_in(fresh, dir, exists).map_err(cannot)
    }

    fn write_files(&self, dir: &Path) -> std::io::Result<()> {
        let mut phases = BTreeMap::new();
        for (&phase, compiled) in &self.phases {
            let folder = dir.join(phase.name());
            fs::create_dir(&folder)?;
            let mut plan = serde_json::to_string_pretty(&compiled.plan)?;
            plan.push('\n');
            let files = PhaseFiles {
                plan: Stamp::of(plan.as_bytes()),
                ptx: Stamp::of(compiled.ptx.as_bytes()),
                cuda_graph: CudaGraph::of(&compiled.plan),
            };
            write_synced(&folder.join(PLAN), &plan)?;
            write_synced(&folder.join(PTX), &compiled.ptx)?;
            phases.insert(phase, files);
        }
        let manifest = Manifest {
            format: FORMAT,
            model: self.model.clone(),
            source: self.source.clone(),
            phases,
        };
        write_synced(&dir.join(MANIFEST), &(serde_json::to_string_pretty(&manifest)? + "\n"))
    }
}

fn write_synced(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Puts a finished directory in the place of another in one step where the system can
/// (`renameat2` with `RENAME_EXCHANGE`), else by two renames.
fn swap_in(fresh: tempfile::TempDir, dir: &Path, exists: bool) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o755))?;
    if !exists {
        fs::rename(fresh.path(), dir)?;
        let _ = fresh.keep();
        return Ok(());
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        // Dropping `fresh` then removes what was there before.
        if renameat_with(CWD, fresh.path(), CWD, dir, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
    }
    let old = fresh.path().with_extension("old");
    fs::rename(dir, &old)?;
    if let Err(e) = fs::rename(fresh.path(), dir) {
        fs::rename(&old, dir)?;
        return Err(e);
    }
    let _ = fresh.keep();
    fs::remove_dir_all(old)
}

fn parse_manifest(dir: &Path, text: &str) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|e| vec![damaged(&path, &format!("it is not JSON: {e}"))])?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format != u64::from(FORMAT) => return fail(other_format(&path, format)),
        Some(_) => {}
        None => return fail(damaged(&path, "it states no format")),
    }
    serde_json::from_value(value).map_err(|e| vec![damaged(&path, &e.to_string())])
}

fn read_file(path: &Path) -> Result<String> {
    fs::read(path)
        .map_err(|e| {
            let message = format!("`{}` cannot be read: {e}", path.display());
            vec![
                Diagnostic::error("E1001", message)
                    .help("`moec build M.moe -o DIR` makes an artefact"),
            ]
        })
        .and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| vec![damaged(path, "it is not UTF-8 text")])
        })
}

fn read_stamped(path: &Path, stamp: &Stamp) -> Result<String> {
    let text = read_file(path)?;
    let found = Stamp::of(text.as_bytes());
    if found.bytes != stamp.bytes {
        let why = format!("it has {} bytes, but was written with {}", found.bytes, stamp.bytes);
        return fail(damaged(path, &why));
    }
    if found != *stamp {
        let why = format!("its CRC-32 is {:08x}, but was {:08x}", found.crc32, stamp.crc32);
        return fail(damaged(path, &why));
    }
    Ok(text)
}

fn damaged(path: &Path, why: &str) -> Diagnostic {
    Diagnostic::error("E1003", format!("`{}` is damaged: {why}", path.display()))
        .help("build the artefact again")
}

fn other_format(path: &Path, format: u64) -> Diagnostic {
    let message =
        format!("`{}` has format {format}, but this moec reads format {FORMAT}", path.display());
    Diagnostic::error("E1002", message).help("build the artefact again with this moec")
}

fn unwritable(dir: &Path, why: &str) -> Diagnostic {
    Diagnostic::error("E1005", format!("the artefact `{}` cannot be written: {why}", dir.display()))
}
