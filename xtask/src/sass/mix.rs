//! Counts instructions by class.

use std::collections::BTreeMap;
use std::fmt;

use super::listing::Instruction;

/// Multiply-adds of the tile that figures are given for: 64 x 128 x 128.
pub const TILE_MACS: u64 = 64 * 128 * 128;

/// Classes by the start of the mnemonic; the first that fits counts.
const CLASSES: &[(&str, &[&str])] = &[
    ("tensor", &["QGMMA", "HGMMA", "IGMMA", "BGMMA", "HMMA", "IMMA", "DMMA", "BMMA"]),
    ("warpgroup", &["WARPGROUP"]),
    ("ffma", &["FFMA"]),
    ("fmul", &["FMUL"]),
    ("fadd", &["FADD"]),
    (
        "float",
        &[
            "FMNMX", "FSEL", "FSET", "FCHK", "FSWZ", "HADD", "HMUL", "HFMA", "HSET", "HMNMX",
            "DADD", "DMUL", "DFMA", "DSET",
        ],
    ),
    ("mufu", &["MUFU"]),
    ("convert", &["F2", "I2F", "I2I", "FRND", "UF2"]),
    ("tma", &["UTMA", "UBLK", "CCTL"]),
    ("mbarrier", &["SYNCS", "ARRIVES"]),
    (
        "barrier",
        &[
            "BAR",
            "UCGABAR",
            "LDGDEPBAR",
            "DEPBAR",
            "MEMBAR",
            "FENCE",
            "WARPSYNC",
            "ELECT",
            "ERRBAR",
            "NANOSLEEP",
            "YIELD",
        ],
    ),
    ("ldgsts", &["LDGSTS"]),
    ("shared load", &["LDS"]),
    ("shared store", &["STS"]),
    ("spill", &["LDL", "STL"]),
    ("constant load", &["LDC", "ULDC"]),
    ("global load", &["LDG", "LD"]),
    ("global store", &["STG", "ST"]),
    ("atomic", &["ATOM", "RED"]),
    ("warp", &["SHFL", "VOTE", "MATCH"]),
    (
        "branch",
        &["BRA", "BRX", "JM", "BSSY", "BSYNC", "BREAK", "EXIT", "CALL", "RET", "BMOV", "UBRA"],
    ),
    (
        "move",
        &[
            "MOV", "UMOV", "R2", "UR2", "S2", "CS2", "SEL", "USEL", "PRMT", "UPRMT", "P2R", "PLOP",
            "UPLOP", "NOP",
        ],
    ),
    (
        "integer",
        &[
            "I", "UI", "LEA", "ULEA", "LOP", "ULOP", "SHF", "USHF", "SHL", "VI", "POPC", "FLO",
            "BREV", "BMSK", "SGXT", "USGXT",
        ],
    ),
];

/// Multiply-adds per SM and cycle of a dense wgmma on H100 (NVIDIA H100 whitepaper).
const TENSOR_RATES: &[(&str, u64)] = &[("QGMMA", 4096), ("IGMMA", 4096), ("HGMMA", 2048)];

/// Whether an instruction runs on the tensor core.
pub(super) fn is_tensor(instruction: &Instruction) -> bool {
    class(instruction) == "tensor"
}

fn class(instruction: &Instruction) -> &'static str {
    let mnemonic = instruction.mnemonic();
    if instruction.opcode.starts_with("IMAD.MOV") {
        return "move";
    }
    let fits = |starts: &[&str]| starts.iter().any(|start| mnemonic.starts_with(start));
    CLASSES.iter().find(|(_, starts)| fits(starts)).map_or("other", |(name, _)| name)
}

/// The instructions of a piece of code, counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mix {
    /// All instructions.
    pub instructions: u64,
    /// Sum of the static stall cycles.
    pub stall_cycles: u64,
    /// Multiply-adds of one warpgroup.
    pub macs: u64,
    /// Cycles that the tensor core needs at its dense peak, for wgmma.
    pub tensor_cycles: f64,
    /// How many of each class.
    pub classes: BTreeMap<&'static str, u64>,
    /// How many of each tensor-core instruction.
    pub tensor: BTreeMap<String, u64>,
}

impl Mix {
    /// Counts `code`.
    pub fn of<'a>(code: impl IntoIterator<Item = &'a Instruction>) -> Self {
        let mut mix = Self::default();
        for instruction in code {
            mix.instructions += 1;
            mix.stall_cycles += u64::from(instruction.stall);
            *mix.classes.entry(class(instruction)).or_default() += 1;
            if is_tensor(instruction) {
                mix.count_tensor(instruction);
            }
        }
        mix
    }

    fn count_tensor(&mut self, instruction: &Instruction) {
        *self.tensor.entry(instruction.opcode.clone()).or_default() += 1;
        let macs = shape(&instruction.opcode).unwrap_or(0);
        // A warpgroup's instruction works for all four warps, a warp's (mma.sync) for one of them.
        let group = if instruction.mnemonic().ends_with("GMMA") { macs } else { 4 * macs };
        self.macs += group;
        if let Some((_, rate)) =
            TENSOR_RATES.iter().find(|(name, _)| instruction.opcode.starts_with(name))
        {
            let tf32 = if instruction.opcode.contains("TF32") { 2.0 } else { 1.0 };
            self.tensor_cycles += tf32 * macs as f64 / *rate as f64;
        }
    }

    /// Tiles of [`TILE_MACS`] that the code multiplies.
    #[must_use]
    pub fn tiles(&self) -> f64 {
        self.macs as f64 / TILE_MACS as f64
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tiles = self.tiles();
        write!(f, "{} instructions, {tiles:.2} tiles", self.instructions)?;
        if tiles > 0.0 {
            let (insn, stall) =
                (self.instructions as f64 / tiles, self.stall_cycles as f64 / tiles);
            let tensor = self.tensor_cycles / tiles;
            write!(
                f,
                "\n      per tile: {insn:.1} instructions, {stall:.1} stall cycles, {tensor:.0} tensor cycles"
            )?;
        }
        let tensor = self.tensor.iter().map(|(name, count)| format!("{count} {name}"));
        let mut classes: Vec<(&str, u64)> = self
            .classes
            .iter()
            .filter(|(name, _)| **name != "tensor")
            .map(|(name, count)| (*name, *count))
            .collect();
        classes.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        let others = classes.iter().map(|(name, count)| format!("{count} {name}"));
        write!(f, "\n      {}", tensor.chain(others).collect::<Vec<_>>().join(", "))
    }
}

/// Multiply-adds of `QGMMA.64x128x32…` or `HMMA.16816…`.
fn shape(opcode: &str) -> Option<u64> {
    opcode.split('.').find_map(|part| match part {
        "16816" => Some(16 * 8 * 16),
        "16832" => Some(16 * 8 * 32),
        "1688" => Some(16 * 8 * 8),
        "16864" => Some(16 * 8 * 64),
        "884" => Some(8 * 8 * 4),
        "8816" => Some(8 * 8 * 16),
        _ => part
            .split('x')
            .map(str::parse)
            .collect::<Result<Vec<u64>, _>>()
            .ok()
            .filter(|sizes| sizes.len() == 3)
            .map(|sizes| sizes.iter().product()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sass::{parse, tensor_loops};

    #[test]
    fn shapes_are_read_from_opcodes() {
        assert_eq!(shape("QGMMA.64x128x32.F32.E4M3.E4M3"), Some(64 * 128 * 32));
        assert_eq!(shape("HMMA.16816.F32.BF16"), Some(16 * 8 * 16));
        assert_eq!(shape("IMAD.MOV.U32"), None);
    }

    #[test]
    fn a_slow_path_beside_the_loop_is_not_counted() {
        let line = |address: u32, text: &str| {
            format!("/*{address:04x}*/ {text} ; /* 0x0 */\n/* 0x0000020000000000 */\n")
        };
        let listing = [
            ".text.k:\n".to_owned(),
            line(0x00, "MOV R1, R2"),
            ".L_head:\n".to_owned(),
            line(0x10, "SYNCS.PHASECHK P0"),
            line(0x20, "@P0 BRA `(.L_fast)"),
            line(0x30, "NANOSLEEP 0x10"),
            ".L_fast:\n".to_owned(),
            line(0x40, "QGMMA.64x128x32.F32.E4M3.E4M3 R24, R88"),
            line(0x50, "@P1 BRA `(.L_head)"),
            line(0x60, "EXIT"),
        ]
        .concat();
        let code = &parse(&listing)["k"];
        let loops = tensor_loops(code);
        assert_eq!(loops.len(), 1);
        let mix = Mix::of(loops[0].hot.iter().map(|index| &code[*index]));
        assert_eq!((loops[0].start, loops[0].end, mix.instructions), (0x10, 0x50, 4));
        assert!((mix.tiles() - 0.25).abs() < 1e-9 && (mix.tensor_cycles - 64.0).abs() < 1e-9);
        assert_eq!(mix.stall_cycles, 4);
    }
}
