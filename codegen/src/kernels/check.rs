//! What every family relies on, checked before a kernel is designed.

use moec_ir::kernel::{KernelSpec, Scalar, View};
use moec_ir::{DType, Diagnostic};

/// Refuses specs whose operands no kernel of their family can have.
pub(super) fn check(spec: &KernelSpec) -> Result<(), Diagnostic> {
    let family = spec.family();
    for (view, rank) in views(spec) {
        if view.dtype == DType::F64 {
            let message = format!("a {family} kernel has an operand of type `f64`");
            return Err(Diagnostic::error("E0901", message)
                .help("kernels compute in float32; store the tensor as `f32` or narrower"));
        }
        let (axes, strides) = (view.shape.len(), view.strides.len());
        if axes != rank || strides != rank {
            let message = format!(
                "a {family} kernel has an operand of {axes} axes with {strides} strides where \
                 {rank} are needed"
            );
            return Err(Diagnostic::error("E0902", message).help("build the artefact again"));
        }
        if !view.align.is_power_of_two() || view.align < view.dtype.bytes() {
            let message = format!(
                "a {family} kernel has an operand of type `{}` aligned to {} bytes",
                view.dtype, view.align
            );
            return Err(Diagnostic::error("E0902", message).help("build the artefact again"));
        }
    }
    match spec {
        KernelSpec::Pointwise { inputs, code, .. } => function(inputs.len(), code),
        KernelSpec::PointwiseQuantize { inputs, q, scale, code, block, .. } => {
            function(inputs.len(), code)?;
            scaled(family, q, scale, [1, *block])
        }
        KernelSpec::Quantize { q, scale, block, .. }
        | KernelSpec::QuantizeTransposed { q, scale, block, .. }
        | KernelSpec::RmsNormQuantize { q, scale, block, .. } => {
            scaled(family, q, scale, [1, *block])
        }
        KernelSpec::ScaledGemm { a, a_scale, w, w_scale, block, .. }
        | KernelSpec::ScaledGroupedGemm { a, a_scale, w, w_scale, block, .. } => {
            if let Some(a_scale) = a_scale {
                scaled(family, a, a_scale, [1, block[1]])?;
            }
            scaled(family, w, w_scale, *block)
        }
        KernelSpec::ScaledMaskedGemm { a, a_scale, w, w_scale, block, .. } => {
            scaled(family, a, a_scale, [1, block[1]])?;
            scaled(family, w, w_scale, *block)
        }
        KernelSpec::WeightGradient { dy, dy_scale, x, x_scale, block, .. } => {
            scaled(family, dy, dy_scale, [1, *block])?;
            scaled(family, x, x_scale, [1, *block])?;
            super::weight_gradient::check(spec)
        }
        _ => Ok(()),
    }
}

/// FP8 numbers whose scales cover their last two axes in blocks of so many rows and columns.
fn scaled(family: &str, data: &View, scale: &View, block: [u64; 2]) -> Result<(), Diagnostic> {
    let refuse = |what: String| {
        let message = format!("a {family} kernel has {what}");
        Err(Diagnostic::error("E0902", message).help("build the artefact again"))
    };
    if data.dtype != DType::F8e4m3 || scale.dtype != DType::F32 {
        return refuse(format!(
            "operands of type `{}` with scales of type `{}` where `f8e4m3` and `f32` are needed",
            data.dtype, scale.dtype
        ));
    }
    let [rows, columns] = block;
    if block.iter().any(|size| !(1..=i32::MAX as u64).contains(size)) {
        return refuse(format!("blocks of {rows} x {columns}"));
    }
    for (axis, size) in (0..data.shape.len()).rev().zip([columns, rows]) {
        let covered = match data.shape[axis].constant() {
            Some(n) => scale.shape[axis].constant() == Some(n.div_ceil(size)),
            None => size > 1 || scale.shape[axis] == data.shape[axis],
        };
        if !covered {
            return refuse(format!(
                "{} scales along an axis of {} in blocks of {size}",
                scale.shape[axis], data.shape[axis]
            ));
        }
    }
    Ok(())
}

/// A function whose steps refer to inputs and earlier steps only.
fn function(inputs: usize, code: &[Scalar]) -> Result<(), Diagnostic> {
    let known = |(i, step): (usize, &Scalar)| match *step {
        Scalar::Input(input) => input < inputs,
        Scalar::Constant(_) => true,
        Scalar::Unary(_, x) => x < i,
        Scalar::Binary(_, x, y) => x < i && y < i,
    };
    if !code.is_empty() && code.iter().enumerate().all(known) {
        return Ok(());
    }
    let message = "the function of a pointwise kernel is empty or refers to a later step";
    Err(Diagnostic::error("E0902", message).help("build the artefact again"))
}

/// All operands that a spec describes, and how many axes each must have.
fn views(spec: &KernelSpec) -> Vec<(&View, usize)> {
    match spec {
        KernelSpec::Gemm { a, w, add, c } => {
            [a, w, c].into_iter().chain(add).map(|v| (v, 3)).collect()
        }
        KernelSpec::GroupedGemm { a, w, c, .. } | KernelSpec::MaskedGemm { a, w, c, .. } => {
            vec![(a, 3), (w, 3), (c, 3)]
        }
        KernelSpec::Quantize { x, q, scale, .. }
        | KernelSpec::QuantizeTransposed { x, q, scale, .. } => vec![(x, 2), (q, 2), (scale, 2)],
        KernelSpec::ScaledGemm { a, a_scale, w, w_scale, add, c, .. } => {
            [a, w, w_scale, c].into_iter().chain(a_scale).chain(add).map(|v| (v, 3)).collect()
        }
        KernelSpec::ScaledGroupedGemm { a, a_scale, w, w_scale, c, .. } => {
            [a, w, w_scale, c].into_iter().chain(a_scale).map(|v| (v, 3)).collect()
        }
        KernelSpec::ScaledMaskedGemm { a, a_scale, w, w_scale, c, .. } => {
            [a, a_scale, w, w_scale, c].map(|v| (v, 3)).into()
        }
        KernelSpec::WeightGradient { dy, dy_scale, x, x_scale, dw, .. } => {
            let factors = [dy, dy_scale, x, x_scale].map(|v| (v, 2));
            factors.into_iter().chain([(dw, 3)]).collect()
        }
        KernelSpec::RoutePlan { chosen, .. } => vec![(chosen, 2)],
        KernelSpec::ExchangeRoutes { chosen, weight, .. } => vec![(chosen, 2), (weight, 2)],
        KernelSpec::SpreadExperts(experts) => {
            let rows = [&experts.x, &experts.chosen, &experts.weight, &experts.out];
            let rows = rows.into_iter().chain(&experts.x_scale).chain(&experts.adds);
            let matrices = [&experts.first, &experts.second].into_iter();
            let matrices = matrices.flat_map(|m| [&m.w].into_iter().chain(&m.scale));
            rows.map(|v| (v, 2)).chain(matrices.map(|v| (v, 3))).collect()
        }
        KernelSpec::Combine { y, weight, adds, out } => {
            let rest = [weight, out].into_iter().chain(adds).map(|v| (v, 2));
            [(y, 3)].into_iter().chain(rest).collect()
        }
        KernelSpec::RmsNorm { x, residual, weight, out, .. } => {
            let kept = residual.iter().flat_map(|(r, s)| [r, s]);
            let rows = [x, out].into_iter().chain(kept).map(|v| (v, 3));
            [(weight, 1)].into_iter().chain(rows).collect()
        }
        KernelSpec::Pointwise { inputs, out, .. } => {
            // No axes is as wrong as a different number.
            let rank = out.shape.len().max(1);
            inputs.iter().chain([out]).map(|v| (v, rank)).collect()
        }
        KernelSpec::RmsNormQuantize { x, residual, weight, out, q, scale, .. } => {
            let kept = residual.iter().flat_map(|(r, s)| [r, s]);
            let rows = [x, q, scale].into_iter().chain(out).chain(kept).map(|v| (v, 3));
            [(weight, 1)].into_iter().chain(rows).collect()
        }
        KernelSpec::PointwiseQuantize { inputs, out, q, scale, .. } => {
            let rank = q.shape.len().max(1);
            inputs.iter().chain(out).chain([q, scale]).map(|v| (v, rank)).collect()
        }
        KernelSpec::Reduce { x, out, .. } | KernelSpec::Softmax { x, out } => {
            vec![(x, 2), (out, 2)]
        }
        KernelSpec::Rotary { x, out, .. } => vec![(x, 3), (out, 3)],
        KernelSpec::Gather { table, out } => vec![(table, 2), (out, 2)],
        KernelSpec::Scatter { x, table } => vec![(x, 2), (table, 2)],
        KernelSpec::AppendLatent { latent, weight, key, cache, packed, .. } => {
            let packed = packed.iter().flat_map(|p| [(&p.scale, 2), (&p.key, 2)]);
            let rest = [(latent, 2), (weight, 1), (key, 2), (cache, 2)];
            rest.into_iter().chain(packed).collect()
        }
        KernelSpec::GatherLatent { latent, packed, out, .. } => {
            [latent, &packed.scale, &packed.key, out].map(|v| (v, 2)).into()
        }
        KernelSpec::Attention { q, k, v, out, quantized, log_sums, .. } => {
            let inputs = q.iter().chain(k).chain([v]).map(|v| (v, 3));
            let rank = if log_sums.is_some() { 4 } else { 3 };
            let scales = quantized.iter().map(|quantized| (&quantized.scale, 2));
            let results = [(out, rank)].into_iter().chain(log_sums.iter().map(|v| (v, 3)));
            inputs.chain(scales).chain(results).collect()
        }
        KernelSpec::AttentionMerge { partial, log_sums, out } => {
            vec![(partial, 4), (log_sums, 3), (out, 3)]
        }
        KernelSpec::TopK { scores, chosen, .. } => vec![(scores, 2), (chosen, 2)],
        KernelSpec::Router { logits, bias, chosen, weight, .. } => {
            let rows = [logits, chosen, weight].map(|v| (v, 2));
            rows.into_iter().chain(bias.iter().map(|v| (v, 1))).collect()
        }
        KernelSpec::Pick { x, chosen, out } => vec![(x, 2), (chosen, 2), (out, 2)],
    }
}
