//! The kernel families, one file each: from a spec to a design, from a design to code.
//!
//! A design is chosen from the spec, the phase and the step that costs were weighed for; it
//! is correct for every step.

mod append_latent;
mod attention;
mod blocks;
mod check;
mod columns;
mod combine;
mod elements;
mod exchange;
mod expert_row;
mod factors;
mod gather;
mod gather_latent;
mod gemm;
mod grouped_gemm;
mod hopper;
mod lanes;
mod masked_gemm;
mod movement;
mod pick;
mod pointwise;
mod pointwise_quantize;
mod product;
mod quantize;
mod quantize_transposed;
mod reduce;
mod rms_norm;
mod rms_norm_quantize;
mod rotary;
mod route_plan;
mod router;
mod rows;
mod tiles;
mod top_k;
mod variant;
mod weight_gradient;

use crate::builder::Builder;
use factors::Factors;
use moec_ir::kernel::KernelSpec;
use moec_ir::plan::{Extent, Geometry};
use moec_ir::{Diagnostic, Dim, Phase, Sizes, Target};
pub use movement::{Movement, Tiles};

/// The step that a design should be good at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the step does.
    pub phase: Phase,
    /// Its sizes.
    pub sizes: Sizes,
}

/// A kernel whose variant, tiles and launch are settled.
pub(crate) trait Design {
    /// Grid, block and shared memory.
    fn geometry(&self) -> Geometry;
    /// Number of pointer parameters.
    fn operands(&self) -> usize;
    /// Its tiles, where tensor cores multiply them.
    fn tiles(&self) -> Option<Tiles> {
        None
    }
    /// What a user should know of it.
    fn warning(&self) -> Option<Diagnostic> {
        None
    }
    /// Appends the kernel's body.
    fn body<'k>(&self, b: &'k Builder<'k>);
}

/// Chooses the design of a kernel.
pub(crate) fn design(
    spec: &KernelSpec,
    step: Step,
    target: &Target,
) -> Result<Box<dyn Design>, Diagnostic> {
    check::check(spec)?;
    Ok(match spec {
        KernelSpec::Gemm { a, w, add, c } => {
            gemm::design(Factors::plain(a, w), add.as_ref(), c, step, target)
        }
        KernelSpec::ScaledGemm { a, a_scale, w, w_scale, add, c, block, promote_every } => {
            let a = (a, a_scale.as_ref());
            let factors = Factors::scaled(a, [w, w_scale], *block, *promote_every);
            gemm::design(factors, add.as_ref(), c, step, target)
        }
        KernelSpec::Quantize { x, q, scale, block, format } => {
            let to = quantize::To { out: None, q, scale, block: *block, format: *format };
            quantize::design(x, to, step)
        }
        KernelSpec::QuantizeTransposed { x, q, scale, block, format } => {
            quantize_transposed::design(x, [q, scale], *block, *format, step)?
        }
        KernelSpec::Pointwise { inputs, out, code } => pointwise::design(inputs, out, code, step),
        KernelSpec::RmsNorm { x, residual, weight, out, eps } => {
            rms_norm::design(x, residual.as_ref(), weight, out, *eps, step)
        }
        KernelSpec::RmsNormQuantize { x, residual, weight, out, q, scale, eps, block, format } => {
            let normed =
                rms_norm_quantize::Normed { x, residual: residual.as_ref(), weight, eps: *eps };
            let to = quantize::To { out: out.as_ref(), q, scale, block: *block, format: *format };
            rms_norm_quantize::design(normed, to, step)
        }
        KernelSpec::PointwiseQuantize { inputs, out, q, scale, code, block, format } => {
            let to = quantize::To { out: out.as_ref(), q, scale, block: *block, format: *format };
            pointwise_quantize::design(inputs, code, to, step)
        }
        KernelSpec::Gather { table, out } => gather::gather(table, out, step),
        KernelSpec::Scatter { x, table } => gather::scatter(x, table, step),
        KernelSpec::AppendLatent {
            latent,
            weight,
            key,
            cache,
            eps,
            interleaved,
            rounded,
            packed,
        } => {
            let operands = [latent, weight, key, cache];
            append_latent::design(operands, *eps, *interleaved, *rounded, packed.as_ref(), step)?
        }
        KernelSpec::GatherLatent { latent, packed, out, block } => {
            gather_latent::design(latent, packed, out, *block, step)?
        }
        KernelSpec::Attention { .. } => attention::design(spec, step, target)?,
        KernelSpec::AttentionMerge { partial, log_sums, out } => {
            attention::merge(partial, log_sums, out, step)
        }
        KernelSpec::RoutePlan { chosen, n_experts } => {
            route_plan::design(chosen, *n_experts, step, target)?
        }
        KernelSpec::TopK { scores, chosen, groups } => {
            top_k::design(scores, chosen, *groups, step)?
        }
        KernelSpec::Router { logits, bias, chosen, weight, scoring, groups, normalize, scale } => {
            let results = router::Results { chosen, weight, normalize: *normalize, scale: *scale };
            router::design(logits, bias.as_ref(), *scoring, *groups, results, step)?
        }
        KernelSpec::GroupedGemm { a, w, c, top_k } => {
            grouped_gemm::design(Factors::plain(a, w), c, *top_k, step, target)
        }
        KernelSpec::ScaledGroupedGemm {
            a,
            a_scale,
            w,
            w_scale,
            c,
            top_k,
            block,
            promote_every,
        } => {
            let a = (a, a_scale.as_ref());
            let factors = Factors::scaled(a, [w, w_scale], *block, *promote_every);
            grouped_gemm::design(factors, c, *top_k, step, target)
        }
        KernelSpec::MaskedGemm { a, w, c, expected } => {
            masked_gemm::design(Factors::plain(a, w), c, *expected, step, target)
        }
        KernelSpec::ScaledMaskedGemm {
            a,
            a_scale,
            w,
            w_scale,
            c,
            expected,
            block,
            promote_every,
        } => {
            let a = (a, Some(a_scale));
            let factors = Factors::scaled(a, [w, w_scale], *block, *promote_every);
            masked_gemm::design(factors, c, *expected, step, target)
        }
        KernelSpec::WeightGradient {
            dy,
            dy_scale,
            x,
            x_scale,
            dw,
            grouped,
            block,
            promote_every,
        } => {
            let operands = [dy, dy_scale, x, x_scale];
            weight_gradient::design(operands, dw, [*block, *promote_every], *grouped, target)?
        }
        KernelSpec::ExchangeRoutes { exchange, chosen, weight } => {
            exchange::routes(exchange, chosen, weight)?
        }
        KernelSpec::SpreadExperts(experts) => exchange::spread(experts, step, target)?,
        KernelSpec::Combine { y, weight, adds, out } => combine::design(y, weight, adds, out, step),
        KernelSpec::Reduce { x, out, f } => reduce::reduce(x, out, *f, step),
        KernelSpec::Softmax { x, out } => reduce::softmax(x, out, step),
        KernelSpec::Rotary { x, out, interleaved } => rotary::design(x, out, *interleaved, step)?,
        KernelSpec::Pick { x, chosen, out } => pick::design(x, chosen, out, step),
    })
}

/// A one-dimensional block of `threads` and a grid of up to three extents.
fn launch(grid: &[(Dim, u64)], threads: u32) -> Geometry {
    let extent = |axis: usize| match grid.get(axis) {
        Some((size, per)) => Extent::new(size.clone(), *per),
        None => Extent::new(Dim::from(1), 1),
    };
    Geometry {
        grid: [extent(0), extent(1), extent(2)],
        block: [threads, 1, 1],
        cluster: 1,
        shared_bytes: 0,
        tensor_maps: vec![],
    }
}
