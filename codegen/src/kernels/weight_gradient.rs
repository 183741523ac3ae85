//! Gradients of weights: products of FP8 that sum over tokens, added to float32 in place.

use super::{Design, hopper};
use moec_ir::kernel::{KernelSpec, View};
use moec_ir::{DType, Diagnostic, Target};

pub(super) fn design(
    operands: [&View; 4],
    dw: &View,
    [block, promote_every]: [u64; 2],
    grouped: bool,
    target: &Target,
) -> Result<Box<dyn Design>, Diagnostic> {
    let refuse = |what: String, help: &str| {
        let message = format!("a weight_gradient kernel has {what}");
        Err(Diagnostic::error("E0902", message).help(help.to_owned()))
    };
    if [block, promote_every] != [hopper::SCALE_BLOCK; 2] {
        let help = "a block is what tensor cores sum before the sum moves to float32: 128 tokens";
        return refuse(format!("blocks of {block} tokens, summed {promote_every} at once"), help);
    }
    if dw.dtype != DType::F32 {
        return refuse(
            format!("a gradient of type `{}`", dw.dtype),
            "gradients are summed in `f32`",
        );
    }
    match hopper::gradient(operands, dw, grouped, target) {
        Some(design) => Ok(Box::new(design)),
        None => refuse(
            "operands that tensor copies cannot read".into(),
            "tokens of a row lie side by side, scales of a block of tokens too; rows and blocks \
             begin at multiples of 16 bytes",
        ),
    }
}

/// Refuses factors whose sizes are not those of the gradient.
pub(super) fn check(spec: &KernelSpec) -> Result<(), Diagnostic> {
    let KernelSpec::WeightGradient { dy, x, dw, grouped, .. } = spec else { return Ok(()) };
    let sizes = [&dy.shape[0], &x.shape[0]] == [&dw.shape[1], &dw.shape[2]];
    if sizes && dy.shape[1] == x.shape[1] && (*grouped || dw.shape[0].is_one()) {
        return Ok(());
    }
    let message = format!("a weight_gradient kernel makes {dw} of {dy} and {x}");
    Err(Diagnostic::error("E0902", message).help("build the artefact again"))
}
