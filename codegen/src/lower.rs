//! From a kernel in MLIR to PTX: lowering, translation to LLVM IR, the NVPTX back end.
//!
//! Before: `scf`, `arith`, `math`, `vector`, `nvvm` and `llvm` operations in one `llvm.func`.
//! After: text. Nothing depends on the host: the target machine is named in full.

use crate::builder::bug;
use inkwell::OptimizationLevel;
use inkwell::llvm_sys::prelude::{LLVMContextRef, LLVMModuleRef};
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple,
};
use melior::Context;
use melior::dialect::{DialectHandle, DialectRegistry};
use melior::ir::Module;
use melior::pass::{PassManager, conversion};
use melior::utility::register_all_llvm_translations;
use std::sync::Once;

/// The PTX version that is emitted: the first that has all of sm_90a's instructions as LLVM
/// uses them and that CUDA 12.8's driver accepts.
const PTX_FEATURE: &str = "+ptx87";

/// What LLVM does to a kernel before the back end. `default<O2>` takes longer, unrolls what was
/// rolled on purpose, and its vector combination forgets which loads are of constant memory.
const PASSES: &str = "function(sroa,simplifycfg,early-cse<memssa>,\
    instcombine<no-verify-fixpoint>,loop-mssa(loop-rotate,licm),loop(indvars),gvn,\
    instcombine<no-verify-fixpoint>,simplifycfg,adce)";

/// What one kernel looks like on its way down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lowered {
    /// LLVM IR after optimisation, where asked for.
    pub(crate) llvm: String,
    /// A whole PTX module.
    pub(crate) ptx: String,
}

/// An MLIR context with the dialects that kernels use.
pub(crate) fn context() -> Context {
    let registry = DialectRegistry::new();
    // SAFETY: these functions return handles that are valid for the whole run.
    let more = unsafe {
        [
            mlir_sys::mlirGetDialectHandle__nvvm__(),
            mlir_sys::mlirGetDialectHandle__math__(),
            mlir_sys::mlirGetDialectHandle__vector__(),
        ]
    };
    let handles = [DialectHandle::llvm(), DialectHandle::scf(), DialectHandle::cf()];
    // SAFETY: the handles are valid, as above.
    let more = more.map(|raw| unsafe { DialectHandle::from_raw(raw) });
    for handle in handles.into_iter().chain(more) {
        handle.insert_dialect(&registry);
    }
    DialectHandle::arith().insert_dialect(&registry);
    let context = Context::new_with_registry(&registry, false);
    register_all_llvm_translations(&context);
    context.load_all_available_dialects();
    context
}

/// Lowers a module in place to the `llvm` and `nvvm` dialects.
fn convert(context: &Context, module: &mut Module) {
    let passes = PassManager::new(context);
    passes.enable_verifier(cfg!(debug_assertions));
    for pass in [
        conversion::create_scf_to_control_flow(),
        conversion::create_vector_to_llvm(),
        conversion::create_nvvm_to_llvm(),
        conversion::create_math_to_llvm(),
        conversion::create_arith_to_llvm(),
        conversion::create_control_flow_to_llvm(),
        conversion::create_reconcile_unrealized_casts(),
    ] {
        passes.add_pass(pass);
    }
    if let Err(e) = passes.run(module) {
        bug(format_args!("lowering to the llvm dialect: {e}\n{}", module.as_operation()));
    }
}

fn machine(arch: &str) -> TargetMachine {
    static INITIALISE: Once = Once::new();
    INITIALISE.call_once(|| Target::initialize_nvptx(&InitializationConfig::default()));
    let triple = TargetTriple::create("nvptx64-nvidia-cuda");
    let target = Target::from_triple(&triple).unwrap_or_else(|e| bug(e));
    let level = OptimizationLevel::Default;
    target
        .create_target_machine(
            &triple,
            arch,
            PTX_FEATURE,
            level,
            RelocMode::Default,
            CodeModel::Default,
        )
        .unwrap_or_else(|| bug(format_args!("LLVM has no NVPTX target machine for `{arch}`")))
}

/// Lowers, optimises and prints a kernel.
pub(crate) fn lower(context: &Context, mut module: Module, arch: &str, llvm: bool) -> Lowered {
    convert(context, &mut module);
    let llvm_context = inkwell::context::Context::create();
    // SAFETY: both crates bind the same LLVM; the module is owned by the context that is passed.
    let translated = unsafe {
        let raw = mlir_sys::mlirTranslateModuleToLLVMIR(
            module.as_operation().to_raw(),
            llvm_context.raw().cast::<_>() as LLVMContextRef as *mut _,
        ) as LLVMModuleRef;
        if raw.is_null() {
            bug(format_args!("translation to LLVM IR\n{}", module.as_operation()));
        }
        inkwell::module::Module::new(raw.cast())
    };
    let machine = machine(arch);
    translated.set_triple(&machine.get_triple());
    translated.set_data_layout(&machine.get_target_data().get_data_layout());
    if let Err(e) = translated.run_passes(PASSES, &machine, PassBuilderOptions::create()) {
        bug(format_args!("LLVM's passes: {e}"));
    }
    let ptx = machine
        .write_to_memory_buffer(&translated, FileType::Assembly)
        .unwrap_or_else(|e| bug(format_args!("LLVM's NVPTX back end: {e}")));
    let ptx = String::from_utf8_lossy(ptx.as_slice()).trim_end_matches('\0').to_owned();
    let llvm = if llvm { translated.print_to_string().to_string() } else { String::new() };
    Lowered { llvm, ptx }
}
