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
        Rule::equation("linear-is-a-gemm", "linear(x, w) => @gemm(x, w)").anywhere(),
        Rule::equation("linear-of-heads-is-a-gemm", "head_linear(x, w) => @head_gemm(x, w)")
            .anywhere(),
        // Rows are sorted by expert once for each choice of experts.
        Rule::equation(
            "linear-of-experts-is-a-grouped-gemm",
            "expert_linear(x, w, chosen) => @grouped_gemm[k](x, w, @route_plan[n](chosen))",
        )
        .given("k", experts_per_token)
        .given("n", number_of_experts),
        // q and s from one reading of x (DeepSeek-V3 3.3.2).
        Rule::equation("quantising-is-a-kernel", "quantize[b, f](x) => first(@quantize[b, f](x))")
            .anywhere(),
        Rule::equation(
            "scales-are-its-second-result",
            "block_scale[b, f](x) => second[b](@quantize[b, f](x))",
        )
        .anywhere(),
        // A block of a row is an axis of its own, along which its scale repeats.
        Rule::function(
            "dequantising-is-a-product",
            "dequantize[1, c](q, s) => mul(q, s) by blocks",
            &["dequantize"],
            scaled::lower_dequantize,
        )
        .at(scaled::blocks_have_one_row)
        .at(scaled::is_no_weight),
        Rule::equation("combine-is-a-kernel", "combine(y, w) => @combine(y, w)").anywhere(),
        Rule::equation("norm-is-a-kernel", "rms_norm[eps](x, w) => @rms_norm[eps](x, w)")
            .anywhere(),
        Rule::equation("softmax-is-a-kernel", "softmax(x) => @softmax(x)").anywhere(),
        Rule::equation("reduction-is-a-kernel", "reduce[f](x) => @reduce[f](x)").anywhere(),
        Rule::equation("rotation-is-a-kernel", "rotary[r](x) => @rotary[r](x)").anywhere(),
        Rule::equation("lookup-is-a-gather", "lookup(table, ids) => @gather(table, ids)")
            .anywhere(),
        Rule::equation("choice-is-a-kernel", "top_k[k, g](x) => @top_k[k, g](x)").anywhere(),
        Rule::equation("pick-is-a-kernel", "pick(x, chosen) => @pick(x, chosen)").anywhere(),
        Rule::function(
            "elements-are-a-kernel",
            "f(x, ..) => @pointwise[f](x, ..)",
            &pointwise::NAMES,
            pointwise::lower,
        )
        .anywhere(),
        Rule::function(
            "pieces-are-copied-together",
            "concat[a](x, y, ..) => @concat[a](x, y, ..)",
            &["concat"],
            copy_pieces,
        )
        .anywhere(),
        // This step's rows are written into the cache, and all rows gathered from it.
        Rule::equation(
            "append-is-scatter-and-gather",
            "append(cache, x) => @gather_past(@scatter(cache, x))",
        )
        .anywhere(),
        Rule::equation(
            "attention-of-packed-rows",
            "attend[scale](q, k, v) => @attention[scale](q, k, v)",
        )
        .anywhere(),
        Rule::equation(
            "attention-in-the-cache",
            "attend[scale](q, k, v) => @attention_in_cache[scale](q, in_cache(k), in_cache(v))",
        )
        .anywhere(),
        // A weighted mix is attention, however its scores add up.
        Rule::function(
            "mix-is-attention",
            "mix(causal_softmax(mul(add(scores(q, k), ..), scale)), v) => \
             @attention[scale](q, .., k, .., v)",
            &["mix"],
            attention::lower_mix,
        )
        .at(attention::weights_are_a_softmax_of_scores),
        // Rows that are written to the cache need not be gathered: attention knows where they are.
        Rule::equation(
            "rows-stay-in-the-cache",
            "in_cache(append(cache, x)) => @scatter(cache, x)",
        )
        .anywhere(),
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
