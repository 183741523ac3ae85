//! The files of a checkpoint, mapped into memory, and the tensors they hold.

use super::can_convert;
use crate::{Result, fail};
use memmap2::Mmap;
use moec_ir::{DType, Diagnostic};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<Bytes>,
    entries: BTreeMap<String, Entry>,
}

/// Where tensors lie.
#[derive(Clone, Debug)]
enum Bytes {
    Mapped(Arc<Mmap>),
    Held(Arc<[u8]>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file,
            Self::Held(bytes) => bytes,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<u64>,
    range: std::ops::Range<usize>,
}

/// A tensor of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Element type in the file.
    pub dtype: Dtype,
    /// Shape.
    pub shape: &'a [u64],
    /// Little-endian elements, row-major.
    pub bytes: &'a [u8],
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Checkpoint {
    /// Opens the checkpoint of a folder: `model.safetensors.index.json` and its shards, or
    /// `model.safetensors`.
    ///
    /// # Errors
    /// E0601 nothing there or unreadable, E0602 truncated, E0603 corrupt, E0605 an index that
    /// disagrees with its shards. All files are looked at before any error is returned.
    pub fn open(folder: &Path) -> Result<Self> {
        let index = folder.join(INDEX);
        if index.is_file() {
            return Self::open_sharded(folder, &index);
        }
        let single = folder.join(SINGLE);
        if !single.is_file() {
            let message =
                format!("there is no `{SINGLE}` and no `{INDEX}` in `{}`", folder.display());
            return fail(
                Diagnostic::error("E0601", message)
                    .help("name the folder that holds the checkpoint's safetensors files"),
            );
        }
        let mut checkpoint = Self::empty(folder);
        checkpoint.add(&single)?;
        Ok(checkpoint)
    }

    fn empty(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), files: vec![], entries: BTreeMap::new() }
    }

    fn open_sharded(folder: &Path, index: &Path) -> Result<Self> {
        let value = read_index(index)?;
        let bad = |why: String| index_error(index, &why);
        let map = weight_map(index, &value)?;
        let mut shards = BTreeSet::new();
        for (tensor, file) in map {
            match file.as_str() {
                Some(f) if !f.contains(['/', '\\']) && f != ".." => shards.insert(f),
                _ => {
                    return Err(bad(format!("`{tensor}` is not in a file of this folder: {file}")));
                }
            };
        }
        let mut checkpoint = Self::empty(folder);
        let mut failures = Vec::new();
        for shard in shards {
            failures.extend(checkpoint.add(&folder.join(shard)).err().unwrap_or_default());
        }
        if failures.is_empty() {
            let lacking = map.keys().filter(|name| !checkpoint.entries.contains_key(*name));
            failures.extend(lacking.flat_map(|name| bad(format!("no shard holds `{name}`"))));
        }
        if failures.is_empty() { Ok(checkpoint) } else { Err(failures) }
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let map = map_file(path)?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| vec![refused(path, &map, &e)])?;
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else { continue };
            let (start, end) = info.data_offsets;
            let entry = Entry {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.iter().map(|&d| d as u64).collect(),
                range: header + 8 + start..header + 8 + end,
            };
            if self.entries.insert(name.clone(), entry).is_some() {
                let message = format!("`{name}` is in `{}` and in another shard", path.display());
                return fail(Diagnostic::error("E0605", message));
            }
        }
        self.files.push(Bytes::Mapped(Arc::new(map)));
        Ok(())
    }

    /// One without files: tensors come from [`Checkpoint::put`]. `name` stands for its folder.
    pub fn in_memory(name: &str) -> Self {
        Self::empty(Path::new(name))
    }

    /// Adds a tensor, or replaces the one of that name; files stay as they are.
    ///
    /// # Errors
    /// E0603 where the bytes are not as many as the type and shape take.
    pub fn put(&mut self, name: &str, dtype: Dtype, shape: &[u64], bytes: Vec<u8>) -> Result<()> {
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let wanted = elements.and_then(|n| n.checked_mul(dtype.bitsize() as u64)).map(|n| n / 8);
        if wanted != Some(bytes.len() as u64) {
            let message =
                format!("`{name}` has {} bytes, not those of {dtype} {shape:?}", bytes.len());
            return fail(Diagnostic::error("E0603", message));
        }
        let range = 0..bytes.len();
        let entry = Entry { file: self.files.len(), dtype, shape: shape.to_vec(), range };
        self.entries.insert(name.to_owned(), entry);
        self.files.push(Bytes::Held(bytes.into()));
        Ok(())
    }

    /// The folder it was opened from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let entry = self.entries.get(name)?;
        let bytes = &self.files[entry.file][entry.range.clone()];
        Some(Tensor { dtype: entry.dtype, shape: &entry.shape, bytes })
    }

    /// A tensor of a known shape that can be converted to `dtype`.
    ///
    /// # Errors
    /// E0604, naming what is otherwise.
    pub fn get(&self, name: &str, shape: &[u64], dtype: DType) -> Result<Tensor<'_>> {
        let wrong = |why: String| {
            let place = self.folder.display();
            vec![Diagnostic::error("E0604", format!("`{name}` in `{place}` {why}"))]
        };
        let tensor = self.tensor(name).ok_or_else(|| wrong("is missing".into()))?;
        if tensor.shape != shape {
            return Err(wrong(format!("has shape {:?}, not {shape:?}", tensor.shape)));
        }
        if !can_convert(tensor.dtype, dtype) {
            return Err(wrong(format!("holds {}, which cannot become {dtype}", tensor.dtype)));
        }
        Ok(tensor)
    }
}

fn index_error(index: &Path, why: &str) -> Vec<Diagnostic> {
    vec![Diagnostic::error("E0605", format!("`{}`: {why}", index.display()))]
}

fn read_index(index: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read_to_string(index).map_err(|e| vec![unreadable(index, &e)])?;
    serde_json::from_str(&text).map_err(|e| index_error(index, &format!("it is not JSON: {e}")))
}

/// The object from tensors to files.
fn weight_map<'a>(
    index: &Path,
    value: &'a serde_json::Value,
) -> Result<&'a serde_json::Map<String, serde_json::Value>> {
    let map = value.get("weight_map").and_then(serde_json::Value::as_object);
    map.ok_or_else(|| index_error(index, "it has no object `weight_map`"))
}

/// The names of a checkpoint's tensors; `None` where the folder holds no checkpoint. Shards
/// need not be there: the index names all tensors.
///
/// # Errors
/// E0601 to E0603 and E0605, as for opening it.
pub fn tensor_names(folder: &Path) -> Result<Option<BTreeSet<String>>> {
    let index = folder.join(INDEX);
    if index.is_file() {
        let value = read_index(&index)?;
        return Ok(Some(weight_map(&index, &value)?.keys().cloned().collect()));
    }
    if !folder.join(SINGLE).is_file() {
        return Ok(None);
    }
    Ok(Some(Checkpoint::open(folder)?.names().map(str::to_owned).collect()))
}

/// Reads one tensor of a safetensors file: element type, shape and bytes.
///
/// # Errors
/// E0601 to E0603 as for a checkpoint; E0604 where the file lacks the tensor.
pub fn tensor_from_file(path: &Path, name: &str) -> Result<(Dtype, Vec<u64>, Vec<u8>)> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = Checkpoint::empty(folder);
    file.add(path)?;
    let found = file.tensor(name).map(|t| (t.dtype, t.shape.to_vec(), t.bytes.to_vec()));
    found.ok_or_else(|| {
        let held: Vec<&str> = file.names().take(8).collect();
        let message = format!("`{}` holds no tensor `{name}`", path.display());
        vec![Diagnostic::error("E0604", message).help(format!("it holds `{}`", held.join("`, `")))]
    })
}

fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| vec![unreadable(path, &e)])?;
    if file.metadata().is_ok_and(|m| m.len() == 0) {
        return fail(
            Diagnostic::error("E0602", format!("`{}` is empty", path.display())).help(AGAIN),
        );
    }
    // SAFETY: the map is read only. That nobody shortens the file while it is in use is the one
    // condition that a program cannot check; it is stated in the manual.
    unsafe { Mmap::map(&file) }.map_err(|e| vec![unreadable(path, &e)])
}

const AGAIN: &str = "download the file again";

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("E0601", format!("`{}` cannot be read: {error}", path.display()))
}

/// Tells a file that ends too early from one that is wrong.
fn refused(path: &Path, bytes: &[u8], error: &SafeTensorError) -> Diagnostic {
    let at = path.display();
    let header = bytes.first_chunk::<8>().map(|n| u64::from_le_bytes(*n));
    let truncated =
        |why: String| Diagnostic::error("E0602", format!("`{at}` is truncated: {why}")).help(AGAIN);
    match (error, header) {
        (SafeTensorError::HeaderTooSmall, _) | (_, None) => {
            truncated(format!("it has {} bytes, fewer than the length of a header", bytes.len()))
        }
        (SafeTensorError::InvalidHeaderLength, Some(n)) => truncated(format!(
            "its header should have {n} bytes, but only {} follow",
            bytes.len() - 8
        )),
        (SafeTensorError::MetadataIncompleteBuffer, Some(n)) => {
            let held = bytes.len() as u64 - 8 - n;
            match declared_bytes(bytes, n) {
                Some(wanted) if wanted > held => truncated(format!(
                    "its tensors take {wanted} bytes, but only {held} follow the header"
                )),
                wanted => {
                    let wanted = wanted.map_or("another number of".into(), |n| n.to_string());
                    let message = format!(
                        "`{at}` is corrupt: {held} bytes follow the header, but its tensors take {wanted} bytes"
                    );
                    Diagnostic::error("E0603", message).help(AGAIN)
                }
            }
        }
        (e, _) => Diagnostic::error("E0603", format!("`{at}` is corrupt: {e}")).help(AGAIN),
    }
}

/// The end of the last tensor by a header of `n` bytes.
fn declared_bytes(bytes: &[u8], n: u64) -> Option<u64> {
    let header = bytes.get(8..8 + usize::try_from(n).ok()?)?;
    let value: serde_json::Value = serde_json::from_slice(header).ok()?;
    let end = |t: &serde_json::Value| t.get("data_offsets")?.get(1)?.as_u64();
    value.as_object()?.values().filter_map(end).max()
}
