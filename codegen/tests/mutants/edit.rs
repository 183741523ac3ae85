//! Changes of generated PTX.

use std::collections::BTreeMap;

/// A change of lines of one role's part of a kernel.
#[derive(Clone, Copy)]
pub(crate) struct Edit {
    /// `routes`, `plan` or `experts`.
    pub(crate) kernel: &'static str,
    /// The note that the part begins with; empty for what comes before the first.
    pub(crate) role: &'static str,
    /// What the lines contain.
    pub(crate) find: &'static str,
    /// How many lines do.
    pub(crate) times: usize,
    /// Where it is not empty: only the first of them behind a line with this.
    pub(crate) behind: &'static str,
    pub(crate) change: Change,
}

/// What becomes of a line.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    Remove,
    Replace(&'static str, &'static str),
    /// Adds to the number at the end of the line.
    Add(i64),
    /// Flips the parity that is waited for.
    FlipParity,
    /// Waits for a flag that is not 0, instead of one that has a value.
    FlagIsSet,
    /// The line, and the one that defines its address, move before the first one with this.
    MoveBefore(&'static str),
}

const NOTE: &str = "// role: ";

/// The lines of a kernel that are run without passing the line `barred`.
fn reached(lines: &[&str], targets: &[Option<usize>], barred: Option<usize>) -> Vec<bool> {
    let mut seen = vec![false; lines.len()];
    let mut ways = vec![0];
    while let Some(first) = ways.pop() {
        for at in first..lines.len() {
            if seen[at] || Some(at) == barred {
                break;
            }
            seen[at] = true;
            ways.extend(targets[at]);
            let ends = targets[at].is_some() || lines[at].trim() == "ret;";
            if ends && !lines[at].contains('@') {
                break;
            }
        }
    }
    seen
}

/// The role of each line: that of the last of the notes that every way to it passes. Blocks of a
/// role need not lie behind its note, and what several roles share belongs to none of them.
pub(crate) fn roles(ptx: &str) -> Vec<&str> {
    let lines: Vec<&str> = ptx.lines().collect();
    let label = |line: &str| line.trim_end().strip_suffix(':').map(str::to_owned);
    let labels: BTreeMap<String, usize> = (lines.iter().enumerate())
        .filter_map(|(at, line)| label(line).map(|label| (label, at)))
        .collect();
    let target = |line: &&str| {
        let (_, to) = line.split_once("bra")?;
        let (to, _) = to[to.find("$L__")?..].split_once(';')?;
        labels.get(to).copied()
    };
    let targets: Vec<Option<usize>> = lines.iter().map(target).collect();
    let all = reached(&lines, &targets, None);
    let notes = lines.iter().enumerate().filter_map(|(at, line)| {
        let (_, role) = line.split_once(NOTE)?;
        let without = reached(&lines, &targets, Some(at));
        Some((
            role.trim(),
            all.iter().zip(without).map(|(all, without)| *all && !without).collect(),
        ))
    });
    let mut notes: Vec<(&str, Vec<bool>)> = notes.collect();
    // Of two notes that are both passed, the earlier has more lines behind it.
    notes.sort_by_key(|(_, behind)| behind.iter().filter(|is| **is).count());
    let role = |at| notes.iter().find(|(_, behind)| behind[at]).map_or("", |(role, _)| role);
    (0..lines.len()).map(role).collect()
}

/// The role of a line, from 1.
pub(crate) fn role_of(ptx: &str, line: u32) -> &str {
    roles(ptx).get((line as usize).saturating_sub(1)).copied().unwrap_or("")
}

impl Edit {
    /// The PTX with the change.
    ///
    /// # Panics
    /// If other lines than expected would change.
    pub(crate) fn apply(&self, ptx: &str) -> String {
        let mut lines: Vec<String> = ptx.lines().map(str::to_owned).collect();
        let roles = roles(ptx);
        let (mut places, mut part, mut is_behind) = (vec![], vec![], self.behind.is_empty());
        for (at, line) in ptx.lines().enumerate() {
            if roles[at] != self.role {
                continue;
            }
            part.push(at);
            if is_behind && line.contains(self.find) {
                places.push(at);
                is_behind = self.behind.is_empty();
            }
            is_behind |= !self.behind.is_empty() && line.contains(self.behind);
        }
        let Self { kernel, role, find, times, .. } = self;
        let found = || {
            let found = ptx.lines().zip(&roles).filter(|(line, _)| line.contains(find));
            found.map(|(line, role)| format!("in `{role}`:{line}\n")).collect::<String>()
        };
        assert_eq!(places.len(), *times, "`{find}` in `{role}` of {kernel}; it is\n{}", found());
        for &at in places.iter().rev() {
            let line = lines[at].clone();
            match self.change {
                Change::Remove => lines[at].clear(),
                Change::Replace(from, to) => {
                    assert!(line.contains(from), "{line}");
                    lines[at] = line.replace(from, to);
                }
                Change::Add(more) => {
                    let (head, number) = line.trim_end_matches(';').rsplit_once(' ').unwrap();
                    let number: i64 = number.parse().unwrap();
                    lines[at] = format!("{head} {};", number + more);
                }
                Change::FlipParity => {
                    let (head, tail) = line.split_once("], ").unwrap();
                    let (parity, tail) = tail.split_once(';').unwrap();
                    let flip = format!(".reg .b32 flip; xor.b32 flip, {parity}, 1; again:");
                    lines[at] = format!("{}], flip;{tail}", head.replace("again:", &flip));
                }
                Change::FlagIsSet => {
                    let (head, tail) = line.split_once("setp.ne.b64 p, seen, ").unwrap();
                    let (_, tail) = tail.split_once(';').unwrap();
                    lines[at] = format!("{head}setp.eq.b64 p, seen, 0;{tail}");
                }
                Change::MoveBefore(to) => {
                    let (_, address) = line.split_once('[').unwrap();
                    let (address, _) = address.split_once(']').unwrap();
                    let defines = format!("\t{address}, ");
                    let defined = |&at: &usize| lines[at].contains(&defines);
                    let definition =
                        part.iter().copied().rev().filter(|&one| one < at).find(defined);
                    let definition = lines[definition.unwrap()].clone();
                    let first = part.iter().copied().find(|&at| lines[at].contains(to)).unwrap();
                    assert!(first < at, "{line}");
                    lines[at].clear();
                    lines[first] = format!("{definition}\n{line}\n{}", lines[first]);
                }
            }
        }
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a;\n// role: one\nadd.s64 \t%rd9, %rd1, 8;\nst.v4 [%rd1];\nst.x [%rd9], 7;\n\
                        // role: two\nst.x [%rd9], 7;\n";

    fn edit(change: Change, times: usize) -> Edit {
        Edit { kernel: "k", role: "one", find: "st.x", times, behind: "", change }
    }

    #[test]
    fn only_lines_of_the_role_change() {
        assert_eq!((role_of(TEXT, 1), role_of(TEXT, 4), role_of(TEXT, 7)), ("", "one", "two"));
        let changed = edit(Change::Add(-1), 1).apply(TEXT);
        assert_eq!(changed, TEXT.replacen("7;", "6;", 1));
        let moved = edit(Change::MoveBefore("st.v4"), 1).apply(TEXT);
        assert!(moved.contains("add.s64 \t%rd9, %rd1, 8;\nst.x [%rd9], 7;\nst.v4"), "{moved}");
    }

    #[test]
    #[should_panic(expected = "in `one` of k")]
    fn a_change_of_nothing_is_no_mutant() {
        edit(Change::Remove, 2).apply(TEXT);
    }
}
