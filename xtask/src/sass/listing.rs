//! Reads what `nvdisasm -c -hex` prints.

use std::collections::BTreeMap;

/// One machine instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Its byte offset in the kernel.
    pub address: u64,
    /// Its predicate, for example `@!P0`; empty where it always executes.
    pub guard: String,
    /// The opcode with its modifiers.
    pub opcode: String,
    /// The operands as printed.
    pub operands: String,
    /// Cycles that the issue of the next instruction waits (bits 105 to 108 of the encoding).
    pub stall: u32,
    /// Where it may branch to.
    pub targets: Vec<u64>,
}

impl Instruction {
    /// The opcode without modifiers.
    #[must_use]
    pub fn mnemonic(&self) -> &str {
        self.opcode.split('.').next().unwrap_or(&self.opcode)
    }
}

/// The instructions of each kernel, by name. Lines of unknown shape are passed over.
#[must_use]
pub fn parse(listing: &str) -> BTreeMap<String, Vec<Instruction>> {
    let mut kernels = BTreeMap::new();
    let mut reader = Reader::default();
    for line in listing.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            reader.finish(&mut kernels);
            reader.kernel = Some(name.to_owned());
        } else if line.starts_with(".section") {
            reader.finish(&mut kernels);
        } else if reader.kernel.is_some() {
            reader.read(line);
        }
    }
    reader.finish(&mut kernels);
    kernels
}

#[derive(Default)]
struct Reader {
    kernel: Option<String>,
    code: Vec<Instruction>,
    labels: BTreeMap<String, u64>,
    /// Labels that stand before the next instruction.
    pending: Vec<String>,
}

impl Reader {
    fn read(&mut self, line: &str) {
        if let Some(label) = line.strip_suffix(':') {
            self.pending.push(label.to_owned());
        } else if let Some(high) = encoding(line) {
            // A line of its own holds the upper 64 of the 128 bits.
            if let Some(last) = self.code.last_mut() {
                last.stall = u32::try_from((high >> 41) & 0xf).unwrap_or_default();
            }
        } else if let Some(instruction) = instruction(line) {
            for label in self.pending.drain(..) {
                self.labels.insert(label, instruction.address);
            }
            self.code.push(instruction);
        }
    }

    /// Resolves the labels and stores the kernel.
    fn finish(&mut self, kernels: &mut BTreeMap<String, Vec<Instruction>>) {
        let reader = std::mem::take(self);
        let (Some(kernel), mut code) = (reader.kernel, reader.code) else { return };
        for instruction in &mut code {
            if matches!(instruction.mnemonic(), "BRA" | "BRX" | "JMP" | "JMX" | "UBRA") {
                let words = instruction
                    .operands
                    .split(|c: char| !(c.is_alphanumeric() || "._$".contains(c)));
                instruction.targets =
                    words.filter_map(|word| reader.labels.get(word).copied()).collect();
            }
        }
        if !code.is_empty() {
            kernels.insert(kernel, code);
        }
    }
}

/// `/* 0x000fd00000000000 */`, alone on its line.
fn encoding(line: &str) -> Option<u64> {
    let digits = line.strip_prefix("/* 0x")?.strip_suffix("*/")?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// `/*0090*/  @!P0 BRA `(.L_x_1) ;  /* 0xfffffffc00f08947 */`
fn instruction(line: &str) -> Option<Instruction> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let body = rest.split(';').next()?.trim().trim_start_matches('{').trim_end_matches('}').trim();
    let (guard, body) = match body.strip_prefix('@') {
        Some(_) => body.split_once(char::is_whitespace)?,
        None => ("", body),
    };
    let body = body.trim();
    let (opcode, operands) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
    let starts_well = opcode.starts_with(|c: char| c.is_ascii_uppercase());
    starts_well.then(|| Instruction {
        address,
        guard: guard.to_owned(),
        opcode: opcode.to_owned(),
        operands: operands.trim().to_owned(),
        stall: 0,
        targets: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
.text.spin:
        /*0000*/                   MOV R1, c[0x0][0x28] ;        /* 0x00000a0000017a02 */
                                                                 /* 0x000fc40000000f00 */
.L_x_1:
        /*0010*/              @!P0 BRA `(.L_x_1) ;               /* 0xfffffffc00f08947 */
                                                                 /* 0x000fea000383ffff */
";

    #[test]
    fn guards_stalls_and_targets_are_read() {
        let kernels = parse(LISTING);
        let code = &kernels["spin"];
        assert_eq!(code.len(), 2);
        assert_eq!((code[0].mnemonic(), code[0].stall), ("MOV", 2));
        assert_eq!((code[1].guard.as_str(), code[1].stall), ("@!P0", 5));
        assert_eq!(code[1].targets, [0x10]);
    }
}
