//! From a plan to its PTX: kernels are compiled in parallel and joined in the plan's order.

use crate::builder::{Builder, Signature};
use crate::kernels::{self, Step, Tiles};
use crate::lower::{self, Lowered};
use moec_ir::kernel::KernelSpec;
use moec_ir::plan::{Geometry, Plan};
use moec_ir::{Diagnostic, Sym, Target};
use rayon::prelude::*;

/// Which texts beside the PTX are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The kernels in MLIR, as built.
    pub mlir: bool,
    /// The kernels in LLVM IR, after LLVM's passes.
    pub llvm: bool,
}

/// One kernel's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCode {
    /// MLIR as built; empty if not asked for.
    pub mlir: String,
    /// LLVM IR after LLVM's passes; empty if not asked for.
    pub llvm: String,
    /// A PTX module with one entry.
    pub ptx: String,
    /// How it is launched.
    pub geometry: Geometry,
    /// Sizes whose numbers it reads.
    pub reads: Vec<Sym>,
    /// What a user should know of it: E0904.
    pub warning: Option<Diagnostic>,
    /// The tiles that its tensor cores multiply, where it is a product on those.
    pub tiles: Option<Tiles>,
}

/// A plan with its code.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The plan, with the geometry of each kernel.
    pub plan: Plan,
    /// One PTX module with an entry per kernel, in the plan's order.
    pub ptx: String,
    /// All kernels in MLIR; empty if not asked for.
    pub mlir: String,
    /// All kernels in LLVM IR; empty if not asked for.
    pub llvm: String,
    /// What a user should know of the kernels, each once.
    pub warnings: Vec<Diagnostic>,
}

/// Makes the code of all kernels of a plan.
///
/// # Errors
///
/// `E0901` for an element type that kernels do not compute in, `E0902` for views that
/// contradict their kernel, `E0903` for heads of attention that are too large; all kernels are
/// tried.
pub fn generate(plan: &Plan, options: Options) -> Result<Generated, Vec<Diagnostic>> {
    let step = Step { phase: plan.phase, sizes: plan.workload };
    let compiled: Vec<Result<KernelCode, Diagnostic>> = plan
        .kernels
        .par_iter()
        .map_init(lower::context, |context, kernel| {
            compile(context, &kernel.spec, step, &plan.target, &kernel.name, options)
        })
        .collect();
    let mut plan = plan.clone();
    let (mut mistakes, mut warnings) = (Vec::new(), Vec::new());
    let (mut ptx, mut mlir, mut llvm) = (String::new(), String::new(), String::new());
    for (kernel, code) in plan.kernels.iter_mut().zip(compiled) {
        match code {
            Ok(code) => {
                let (header, entry) = split_header(&code.ptx);
                if ptx.is_empty() {
                    ptx.push_str(header);
                }
                push_entry(&mut ptx, entry);
                mlir.push_str(&code.mlir);
                llvm.push_str(&code.llvm);
                warnings.extend(code.warning.filter(|warning| !warnings.contains(warning)));
                kernel.geometry = Some(code.geometry);
                kernel.reads = code.reads;
            }
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() {
        Ok(Generated { plan, ptx, mlir, llvm, warnings })
    } else {
        Err(mistakes)
    }
}

/// Makes the code of one kernel, for a step of the given kind.
///
/// # Errors
///
/// As [`generate`].
pub fn generate_kernel(
    spec: &KernelSpec,
    step: Step,
    target: &Target,
    name: &str,
    options: Options,
) -> Result<KernelCode, Diagnostic> {
    compile(&lower::context(), spec, step, target, name, options)
}

fn compile(
    context: &melior::Context,
    spec: &KernelSpec,
    step: Step,
    target: &Target,
    name: &str,
    options: Options,
) -> Result<KernelCode, Diagnostic> {
    let design = kernels::design(spec, step, target)?;
    let geometry = design.geometry();
    let operands = design.operands();
    let (tiles, warning) = (design.tiles(), design.warning());
    let signature = Signature {
        name: name.to_owned(),
        threads: geometry.block.iter().product(),
        cluster: geometry.cluster,
        operands,
        tensor_maps: geometry.tensor_maps.len(),
    };
    let module = Builder::kernel(context, signature, |b| design.body(b));
    let mlir = if options.mlir { module.as_operation().to_string() } else { String::new() };
    let Lowered { llvm, ptx } = lower::lower(context, module, &target.arch, options.llvm);
    let reads = sizes_read(&ptx, name, operands);
    Ok(KernelCode { mlir, llvm, ptx, geometry, reads, warning, tiles })
}

/// The sizes that an entry reads: they are its parameters behind the pointers.
fn sizes_read(ptx: &str, name: &str, operands: usize) -> Vec<Sym> {
    let is_read = |place: usize| ptx.contains(&format!("[{name}_param_{}]", operands + place));
    let sizes = Sym::ALL.into_iter().enumerate();
    sizes.filter(|(place, _)| is_read(*place)).map(|(_, size)| size).collect()
}

/// Appends an entry, and those declarations of functions before it that the module does not have.
fn push_entry(ptx: &mut String, entry: &str) {
    const DECLARATION: &str = ".extern .func";
    let mut rest = entry;
    while let Some(at) = rest.find(DECLARATION) {
        let end = rest[at..].find(";\n").map_or(rest.len(), |end| at + end + 2);
        ptx.push_str(&rest[..at]);
        if !ptx.contains(&rest[at..end]) {
            ptx.push_str(&rest[at..end]);
        }
        rest = &rest[end..];
    }
    ptx.push_str(rest);
}

/// The part of a PTX module up to `.address_size 64` (one per module), and what follows.
fn split_header(ptx: &str) -> (&str, &str) {
    const LAST: &str = ".address_size 64\n";
    let end = ptx.find(LAST).map_or(0, |at| at + LAST.len());
    ptx.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_called_is_declared_once() {
        let entry = |name: &str, called: &str| {
            format!("\n.extern .func {called}\n(\n\t.param .b64 p\n)\n;\n.visible .entry {name}()")
        };
        let mut ptx = String::new();
        for (name, called) in [("a", "put"), ("b", "put"), ("c", "get")] {
            push_entry(&mut ptx, &entry(name, called));
        }
        assert_eq!(ptx.matches(".extern .func put\n").count(), 1, "{ptx}");
        assert_eq!(ptx.matches(".extern .func get\n").count(), 1, "{ptx}");
        assert_eq!(ptx.matches(".visible .entry").count(), 3, "{ptx}");
    }
}
