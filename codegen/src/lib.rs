//! From plans to PTX for Hopper: kernels are built in MLIR, lowered in process and emitted by
//! LLVM's NVPTX back end.
//!
//! ```
//! use moec_codegen::{Options, Step, generate_kernel};
//! use moec_ir::kernel::{KernelSpec, View};
//! use moec_ir::{DType, Dim, Phase, Sizes, Sym, Target};
//!
//! let rows = |n: u64| View::dense(DType::Bf16, &[Sym::Tokens.into(), Dim::from(n)]).unwrap();
//! let spec = KernelSpec::Softmax { x: rows(256), out: rows(256) };
//! let step = Step {
//!     phase: Phase::Decode,
//!     sizes: Sizes { tokens: 1, past: 512, sequences: 1 },
//! };
//! let target = Target::named("h800").unwrap();
//! let code = generate_kernel(&spec, step, &target, "softmax_0", Options::default()).unwrap();
//! assert!(code.ptx.contains(".visible .entry softmax_0("));
//! ```
//!
//! In reading order: `builder` (a typed builder over MLIR), `tensor` (operands with their
//! layout), `kernels` (one file per family: spec to design to code), `lower` (MLIR to LLVM IR
//! to PTX), [`generate`] (a whole plan), [`ptxas`] (verification by NVIDIA's assembler).

mod builder;
mod generate;
mod kernels;
mod lower;
pub mod ptxas;
mod tensor;

pub use generate::{Generated, KernelCode, Options, generate, generate_kernel};
pub use kernels::{Movement, Step, Tiles};
