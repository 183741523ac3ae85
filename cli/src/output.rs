//! Standard output and files.

use crate::failure::Failure;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Writes to standard output at once. A reader that has gone ends the program quietly.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Failure::ClosedPipe),
        Err(e) => Err(Failure::Message(format!("standard output cannot be written: {e}"))),
    }
}

/// Writes to a file, or to standard output where none is named. A file appears as a whole.
pub(crate) fn write_to(path: Option<&Path>, bytes: &[u8]) -> Result<(), Failure> {
    let Some(path) = path else { return write(bytes) };
    let cannot =
        |e: String| Failure::Message(format!("`{}` cannot be written: {e}", path.display()));
    // A device or pipe cannot be replaced.
    if path.exists() && !path.is_file() {
        return std::fs::write(path, bytes).map_err(|e| cannot(e.to_string()));
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut file = tempfile::Builder::new()
        .prefix(".moec-")
        .permissions(permissions)
        .tempfile_in(parent)
        .map_err(|e| cannot(e.to_string()))?;
    file.write_all(bytes).map_err(|e| cannot(e.to_string()))?;
    file.persist(path).map_err(|e| cannot(e.to_string()))?;
    Ok(())
}
