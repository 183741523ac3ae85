//! Reads what `ptxas -v` prints.

use std::collections::BTreeMap;

/// What ptxas says of one entry function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryReport {
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of stack frame per thread.
    pub stack_bytes: u32,
    /// Bytes stored by spills, per thread.
    pub spill_store_bytes: u32,
    /// Bytes loaded by spills, per thread.
    pub spill_load_bytes: u32,
    /// Bytes of static shared memory per CTA.
    pub smem_bytes: u32,
    /// Named barriers used.
    pub barriers: u32,
}

/// What ptxas says of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileReport {
    /// The entry functions, by name.
    pub entries: BTreeMap<String, EntryReport>,
    /// Every line that is a warning (of performance too), an error or fatal, as printed.
    pub complaints: Vec<String>,
    /// Whether ptxas refused the file.
    pub rejected: bool,
}

impl FileReport {
    /// No complaint, and no entry spills.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let spills = |entry: &EntryReport| entry.spill_store_bytes + entry.spill_load_bytes > 0;
        !self.rejected && self.complaints.is_empty() && !self.entries.values().any(spills)
    }
}

/// Reads the text that `ptxas -v` printed; `success` is whether it exited with 0.
///
/// Lines of a shape that is not known are passed over: the exit status decides, not the text.
#[must_use]
pub fn parse(text: &str, success: bool) -> FileReport {
    let mut report = FileReport { rejected: !success, ..FileReport::default() };
    let mut current: Option<String> = None;
    for line in text.lines() {
        if let Some(name) = entry_name(line) {
            report.entries.entry(name.clone()).or_default();
            current = Some(name);
        } else if is_complaint(line) {
            report.complaints.push(line.to_owned());
        } else if let Some(entry) = current.as_ref().and_then(|name| report.entries.get_mut(name)) {
            read_figures(line, entry);
        }
    }
    report
}

/// `ptxas info    : Compiling entry function 'NAME' for 'sm_90a'`
fn entry_name(line: &str) -> Option<String> {
    let rest = line.split("Compiling entry function '").nth(1)?;
    Some(rest.split('\'').next()?.to_owned())
}

fn is_complaint(line: &str) -> bool {
    // "ptxas warning : …", "ptxas FILE, line 4; error   : …", "ptxas fatal   : …"; performance warnings such
    // as "ptxas info    : (C7517) Potential Performance Loss: …" call themselves information.
    let ours = line.split_whitespace().next() == Some("ptxas");
    let severe = ["warning", "error", "fatal"]
        .iter()
        .any(|kind| line.split(':').any(|part| part.trim_end().ends_with(kind)));
    ours && (severe || line.contains(": (C"))
}

/// Each figure is the number before its words: `Used 163 registers, used 1 barriers, 19456 bytes smem`.
fn read_figures(line: &str, entry: &mut EntryReport) {
    let fields: [(&str, &mut u32); 6] = [
        ("registers", &mut entry.registers),
        ("bytes stack frame", &mut entry.stack_bytes),
        ("bytes spill stores", &mut entry.spill_store_bytes),
        ("bytes spill loads", &mut entry.spill_load_bytes),
        ("bytes smem", &mut entry.smem_bytes),
        ("barriers", &mut entry.barriers),
    ];
    for (unit, field) in fields {
        if let Some(value) = line.split(',').find_map(|part| number_before(part, unit)) {
            *field = value;
        }
    }
}

fn number_before(part: &str, unit: &str) -> Option<u32> {
    part.trim().strip_suffix(unit)?.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'mma_gemm' for 'sm_90a'
ptxas info    : Function properties for mma_gemm
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 19456 bytes smem
ptxas info    : Compile time = 55.694 ms
";

    #[test]
    fn a_clean_report_is_read_whole() {
        let report = parse(CLEAN, true);
        let expected =
            EntryReport { registers: 64, smem_bytes: 19456, barriers: 1, ..EntryReport::default() };
        assert_eq!(report.entries.get("mma_gemm"), Some(&expected));
        assert!(report.is_clean());
    }

    #[test]
    fn a_spill_is_not_clean() {
        let report = parse(&CLEAN.replace("0 bytes spill stores", "8 bytes spill stores"), true);
        assert_eq!(report.entries["mma_gemm"].spill_store_bytes, 8);
        assert!(!report.is_clean());
    }

    #[test]
    fn errors_and_warnings_are_complaints() {
        let text = "ptxas bad.ptx, line 4; error   : Unknown symbol '%q'\n\
                    ptxas info    : (C7517) Potential Performance Loss\n\
                    ptxas warning : spills\n\
                    ptxas fatal   : Ptx assembly aborted due to errors\n";
        let report = parse(text, false);
        assert_eq!(report.complaints.len(), 4, "{:?}", report.complaints);
        assert!(report.rejected);
    }
}
