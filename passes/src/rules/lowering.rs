//! Mathematics to kernels: every operation has at least one line, so that what the language
//! admits can be compiled. The parts of attention compile together only, since scores of all
//! tokens with all keys are never stored.

use super::conditions::*;
use super::{Rule, attention, pointwise, scaled};
use crate::language::{Kernel, Node, Term};
use crate::pattern::Rewriter;
use egg::Id;
use moec_ir::Op;

/// The table.
pub(super) fn table() -> Vec<Rule> {
    vec![
        Rule::equation("linear-is-a-gemm", "linear(x, w) => @gemm(x, w)"),
        Rule::equation("linear-of-heads-is-a-gemm", "head_linear(x, w) => @head_gemm(x, w)"),
        // Rows are sorted by expert once for each choice of experts.
        Rule::equation(
            "linear-of-experts-is-a-grouped-gemm",
            "expert_linear(x, w, chosen) => @grouped_gemm[k](x, w, @route_plan[n](chosen))",
        )
        .given("k", experts_per_token)
        .given("n", number_of_experts),
        // q and s from one reading of x (DeepSeek-V3 3.3.2).
        Rule::equation("quantising-is-a-kernel", "quantize[b, f](x) => first(@quantize[b, f](x))"),
        Rule::equation(
            "scales-are-its-second-result",
            "block_scale[b, f](x) => second[b](@quantize[b, f](x))",
        ),
        // A block of a row is an axis of its own, along which its scale repeats.
        Rule::function(
            "dequantising-is-a-product",
            "dequantize[1, c](q, s) => mul(q, s) by blocks",
            &["dequantize"],
            scaled::lower_dequantize,
        ),
        Rule::equation("combine-is-a-kernel", "combine(y, w) => @combine(y, w)"),
        Rule::equation("norm-is-a-kernel", "rms_norm[eps](x, w) => @rms_norm[eps](x, w)"),
        Rule::equation("softmax-is-a-kernel", "softmax(x) => @softmax(x)"),
        Rule::equation("reduction-is-a-kernel", "reduce[f](x) => @reduce[f](x)"),
        Rule::equation("rotation-is-a-kernel", "rotary[r](x) => @rotary[r](x)"),
        Rule::equation("lookup-is-a-gather", "lookup(table, ids) => @gather(table, ids)"),
        Rule::equation("choice-is-a-kernel", "top_k[k, g](x) => @top_k[k, g](x)"),
        Rule::equation("pick-is-a-kernel", "pick(x, chosen) => @pick(x, chosen)"),
        Rule::function(
            "elements-are-a-kernel",
            "f(x, ..) => @pointwise[f](x, ..)",
            &pointwise::NAMES,
            pointwise::lower,
        ),
        Rule::function(
            "pieces-are-copied-together",
            "concat[a](x, y, ..) => @concat[a](x, y, ..)",
            &["concat"],
            copy_pieces,
        ),
        // This step's rows are written into the cache, and all rows gathered from it.
        Rule::equation(
            "append-is-scatter-and-gather",
            "append(cache, x) => @gather_past(@scatter(cache, x))",
        ),
        Rule::equation(
            "attention-of-packed-rows",
            "attend[scale](q, k, v) => @attention[scale](q, k, v)",
        ),
        Rule::equation(
            "attention-in-the-cache",
            "attend[scale](q, k, v) => @attention_in_cache[scale](q, in_cache(k), in_cache(v))",
        ),
        // A weighted mix is attention, however its scores add up.
        Rule::function(
            "mix-is-attention",
            "mix(causal_softmax(mul(add(scores(q, k), ..), scale)), v) => \
             @attention[scale](q, .., k, .., v)",
            &["mix"],
            attention::lower_mix,
        ),
        // Rows that are written to the cache need not be gathered: attention knows where they are.
        Rule::equation(
            "rows-stay-in-the-cache",
            "in_cache(append(cache, x)) => @scatter(cache, x)",
        ),
        Rule::equation(
            "slices-stay-in-the-cache",
            "in_cache(slice[a, i, n](x)) => slice[a, i, n](in_cache(x))",
        )
        .when(beyond_tokens, &["a"]),
        Rule::equation(
            "shapes-stay-in-the-cache",
            "in_cache(reshape[s](x)) => reshape[s](in_cache(x))",
        )
        .when(both_lead_with_past, &["s", "x"]),
        Rule::equation(
            "repeats-stay-in-the-cache",
            "in_cache(broadcast[s](x)) => broadcast[s](in_cache(x))",
        )
        .when(both_lead_with_past, &["s", "x"]),
    ]
}

/// Weights are laid side by side when they are loaded; activations by a kernel.
fn copy_pieces(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    let Term::Math(Op::Concat { axis }) = node.term else { return };
    let kernel = Term::Kernel(Kernel::Concat { axis });
    if let Some(equal) = rw.add(kernel, node.dtype, node.children.clone()) {
        rw.equate(class, equal);
    }
}
