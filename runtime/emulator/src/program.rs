//! Decoded code: what the executor runs.

use std::collections::BTreeMap;

use crate::exec::Cx;
use crate::ptx::ast::Limits;

/// Where an operand lies in a frame, in bytes. Registers of up to 32 bits take a row of 32 `u32`,
/// one per lane; 64-bit registers a row of 32 `u64`; predicates one `u32` with a bit per lane.
pub(crate) type Reg = u32;

/// No register: an unused operand, `_`, or no guard.
pub(crate) const NO_REG: Reg = u32::MAX;

/// No instruction: a branch whose sides meet only at the exit.
pub(crate) const NO_PC: u32 = u32::MAX;

/// What the executor does after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Flow {
    /// Go on with the next instruction.
    Next,
    /// `cx.pc` was set.
    Jump,
    /// The splits changed: choose one anew. The pc of the running split was stored if it lives.
    Switch,
    /// Stay at this instruction; the split's `wait` says until when.
    Wait,
    /// Go on with the next instruction, but let others run first.
    Yield,
    /// `cx.fault` says why.
    Fault,
}

/// Executes one instruction for the lanes of `cx.mask`.
///
/// # Safety
/// The operands must be those that the decoder made for this function and the frame that of the
/// function that holds the instruction.
pub(crate) type Exec = unsafe fn(&mut Cx<'_>, &Inst) -> Flow;

/// One decoded instruction. What the fields beyond the operands mean is up to the family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inst {
    pub(crate) exec: Exec,
    /// The predicate of `@p`, or [`NO_REG`].
    pub(crate) guard: Reg,
    /// All ones for `@!p`.
    pub(crate) guard_flip: u32,
    pub(crate) d: Reg,
    pub(crate) a: Reg,
    pub(crate) b: Reg,
    pub(crate) c: Reg,
    pub(crate) aux: u32,
    pub(crate) imm: u64,
}

/// A value that a frame holds from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Const {
    /// 32 bits for all lanes.
    Word(u32),
    /// 64 bits for all lanes.
    Wide(u64),
    /// Address of a module variable: byte offset in the module's block of device memory.
    Global(u64),
    /// Address of a shared variable (by number) plus an offset; true for a 64-bit row.
    Shared(u32, i64, bool),
    /// Address in the thread's stack, relative to the frame; true for a 64-bit row.
    Local(u32, bool),
    /// Address in the kernel's parameters; true for a 64-bit row.
    Param(u32, bool),
    /// A special register (PTX ISA chapter 10).
    Special(Special),
}

/// Special registers that do not change while a CTA runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    WarpSize,
    SmId,
    NsmId,
    GridId,
    LanemaskEq,
    LanemaskLt,
    LanemaskLe,
    LanemaskGt,
    LanemaskGe,
    DynamicShared,
    TotalShared,
    ReservedShared,
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtarank,
    ClusterNctarank,
    Envreg(u8),
    /// `%current_graph_exec` (10.33): no graph runs here.
    CurrentGraph,
    CounterWide,
    Zero,
}

impl Special {
    /// Whether the register has 64 bits.
    pub(crate) fn is_wide(self) -> bool {
        matches!(self, Special::GridId | Special::CurrentGraph | Special::CounterWide)
    }
}

/// Bytes of a call's argument or result in a thread's stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
}

/// One call site.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The callee, or none where a register holds its address.
    pub(crate) target: Option<u32>,
    pub(crate) args: Vec<Slot>,
    pub(crate) results: Vec<Slot>,
}

/// A function's decoded body.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) insts: Vec<Inst>,
    /// PTX line of each instruction.
    pub(crate) lines: Vec<u32>,
    /// Opcode of each instruction, as an index into `names`.
    pub(crate) opcodes: Vec<u32>,
    pub(crate) names: Vec<String>,
    /// Operand lists of vectors, by `aux` or `imm` of their instructions.
    pub(crate) lists: Vec<Reg>,
    pub(crate) calls: Vec<Call>,
    /// Jump tables: the pc of each target.
    pub(crate) tables: Vec<Vec<u32>>,
    pub(crate) frame_bytes: u32,
    pub(crate) consts: Vec<(Reg, Const)>,
    /// Stack bytes per thread.
    pub(crate) local_bytes: u32,
    /// Bytes that `alloca` has taken above them, per lane; [`NO_REG`] in a function without.
    pub(crate) stack_top: Reg,
    pub(crate) formals: Vec<Slot>,
    pub(crate) results: Vec<Slot>,
    pub(crate) has_body: bool,
    pub(crate) facts: Facts,
    /// Functions that a direct call names.
    pub(crate) callees: Vec<u32>,
    /// Shared variables that the body names.
    pub(crate) shared: Vec<u32>,
}

impl Function {
    /// A function without a body.
    pub(crate) fn prototype(name: String, formals: Vec<Slot>, results: Vec<Slot>) -> Function {
        Function {
            name,
            insts: Vec::new(),
            lines: Vec::new(),
            opcodes: Vec::new(),
            names: Vec::new(),
            lists: Vec::new(),
            calls: Vec::new(),
            tables: Vec::new(),
            frame_bytes: 0,
            consts: Vec::new(),
            local_bytes: 0,
            stack_top: NO_REG,
            formals,
            results,
            has_body: false,
            facts: Facts::default(),
            callees: Vec::new(),
            shared: Vec::new(),
        }
    }

    /// The opcode at `pc`, as written.
    pub(crate) fn opcode(&self, pc: u32) -> &str {
        let index = self.opcodes.get(pc as usize).copied().unwrap_or(0);
        self.names.get(index as usize).map_or("", String::as_str)
    }
}

/// What a function's instructions may do beyond computing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    /// CTAs may talk to each other through memory, so that their order could show.
    pub(crate) communicates: bool,
    /// Threads may wait for others in a loop.
    pub(crate) can_spin: bool,
    /// Registers per thread that `setmaxnreg` asks for, at most; 0 without one.
    pub(crate) most_registers: u32,
    /// A register holds the callee of some call.
    pub(crate) calls_indirectly: bool,
}

/// One kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) function: u32,
    /// Offset and bytes of each parameter.
    pub(crate) params: Vec<Slot>,
    pub(crate) param_bytes: u32,
    pub(crate) limits: Limits,
    /// Offset of each shared variable of the module, for those that the kernel can reach.
    pub(crate) shared_offsets: Vec<Option<u32>>,
    /// Bytes before dynamic shared memory, the reserved ones included.
    pub(crate) static_shared: u32,
    pub(crate) facts: Facts,
}

/// A shared variable of the module.
#[derive(Clone, Debug)]
pub(crate) struct SharedVariable {
    pub(crate) bytes: u32,
    pub(crate) align: u32,
    /// `.extern .shared x[]`: dynamic shared memory.
    pub(crate) is_dynamic: bool,
}

/// A whole module, ready to run.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) functions: Vec<Function>,
    pub(crate) kernels: BTreeMap<String, Kernel>,
    /// Initial bytes of the module's variables in device memory.
    pub(crate) image: Vec<u8>,
    /// Addresses to add to the image: where, and what.
    pub(crate) fixups: Vec<(usize, Fixup)>,
    /// Number of memory instructions; each has a cached region.
    pub(crate) sites: u32,
}

/// An address inside the image.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fixup {
    /// Of another variable: its offset in the image.
    Global(u64),
    /// Of a function.
    Function(u32),
}
