//! What one kernel can do at once.

use super::conditions::{experts_per_token, is_f32, number_of_experts, same_elements, same_shape};
use super::{Rule, exchange, pointwise, routing, scaled};
use crate::language::{Kernel, Node, Term};
use crate::pattern::Rewriter;
use egg::Id;
use moec_ir::{DType, Op};

/// The table.
pub(super) fn table() -> Vec<Rule> {
    vec![
        // W x + r: the residual is added while the product is in registers.
        Rule::equation("add-inside-the-gemm", "add(y=linear(x, w), r) => @gemm_add(x, w, r)")
            .when(same_shape, &["y", "r"]),
        Rule::equation("add-the-gemm-to-it", "add(r, y=linear(x, w)) => @gemm_add(x, w, r)")
            .when(same_shape, &["y", "r"]),
        // Σ s t (q p): products of quantised operands, scaled block by block (DeepSeek-V3 3.3.2).
        Rule::equation(
            "scale-inside-the-gemm",
            "linear(dequantize[1, c](x, s), dequantize[r, c](w, t)) => @scaled_gemm[r, c](x, s, w, t)",
        )
        .anywhere(),
        Rule::equation(
            "scale-inside-the-gemm-of-experts",
            "expert_linear(dequantize[1, c](x, s), dequantize[r, c](w, t), chosen) => \
             @scaled_grouped_gemm[k, r, c](x, s, w, t, @route_plan[n](chosen))",
        )
        .given("k", experts_per_token)
        .given("n", number_of_experts),
        Rule::equation(
            "scale-and-add-inside-the-gemm",
            "add(y=linear(dequantize[1, c](x, s), dequantize[n, c](w, t)), r) => \
             @scaled_gemm_add[n, c](x, s, w, t, r)",
        )
        .when(same_shape, &["y", "r"]),
        Rule::equation(
            "scale-the-gemm-and-add-it",
            "add(r, y=linear(dequantize[1, c](x, s), dequantize[n, c](w, t))) => \
             @scaled_gemm_add[n, c](x, s, w, t, r)",
        )
        .when(same_shape, &["y", "r"]),
        // Numbers that nobody rounded times quantised weights, which stay as they are in memory.
        Rule::equation(
            "scale-weights-inside-the-gemm",
            "linear(x, dequantize[r, c](w, t)) => @scaled_gemm[r, c](x, w, t)",
        )
        .when(is_f32, &["x"]),
        Rule::equation(
            "scale-weights-inside-the-gemm-of-experts",
            "expert_linear(x, dequantize[r, c](w, t), chosen) => \
             @scaled_grouped_gemm[k, r, c](x, w, t, @route_plan[n](chosen))",
        )
        .given("k", experts_per_token)
        .given("n", number_of_experts)
        .when(is_f32, &["x"]),
        // Σ w y + r: the shared experts' output and the residual join the sum over experts.
        Rule::function(
            "add-inside-the-combine",
            "add(@combine(y, w, ..), r) => @combine(y, w, .., r)",
            &["add"],
            add_into_combine,
        )
        .at(a_term_is_a_combine)
        .at(only_the_sum_reads_it),
        // norm(x + r) and x + r from one reading of both.
        Rule::function(
            "add-before-the-norm",
            "add(x, r), rms_norm[eps](add(x, r), w) => \
             second[1](a), first(a) of a = @add_rms_norm[eps](x, r, w)",
            &["rms_norm"],
            add_before_norm,
        )
        .at(the_normed_is_a_sum_of_rows),
        // A norm, or a function of each element, is quantised before it leaves the registers.
        Rule::function(
            "quantise-after-the-norm",
            "quantize[b, f](n), block_scale[b, f](n), n=rms_norm[eps](x, w) => \
             first(k), second[b](k), third(k) of k = @rms_norm_quantize[eps, b, f](x, w)",
            &["quantize", "block_scale"],
            |rw, class, node| scaled::quantize_at_once(rw, class, node, "rms_norm"),
        )
        .at(scaled::operand_is_a_norm),
        Rule::function(
            "quantise-after-the-function",
            "quantize[b, f](n), block_scale[b, f](n), n=@pointwise[g](xs) => \
             first(k), second[b](k), third(k) of k = @pointwise_quantize[g, b, f](xs)",
            &["quantize", "block_scale"],
            |rw, class, node| scaled::quantize_at_once(rw, class, node, "@pointwise"),
        )
        .at(scaled::operand_is_pointwise),
        // Scores, choice and weights from one reading of the logits (DeepSeek-V3 2.1.2).
        Rule::function(
            "router-in-one-kernel",
            "c=top_k[k, g](add(s=sigmoid(l), b)), mul(div(p=pick(s, c), reduce[sum](p)), a) => \
             first(r), second[1](r) of r = @router[k, g, a](l, b)",
            &["top_k"],
            routing::join,
        )
        .at(routing::scores_are_f32)
        .at(routing::experts_fit_a_warp)
        .at(routing::chosen_scores_become_weights),
        // cache ∪ [norm(c), rotated k]: what MLA remembers is written where it stays, rounded once
        // (DeepSeek-V2 2.1.2).
        Rule::equation(
            "append-the-latent-as-it-is-made",
            "@scatter(cache, x=concat[1](rms_norm[eps](c, w), rotary[r](k))) => \
             @append_latent[eps, r](cache, c, w, k)",
        )
        .when(same_elements, &["cache", "x"]),
        Rule::equation(
            "append-the-latent-as-products-round-it",
            "@scatter(cache, x=concat[1](dequantize[1, b](quantize[b, f](n), \
             block_scale[b, f](n=rms_norm[eps](c, w))), rotary[r](k))) => \
             @append_latent_rounded[eps, r, b, f](cache, c, w, k)",
        )
        .when(same_elements, &["cache", "x"]),
        // Tokens go to the ranks of their experts and come back while others are multiplied
        // (DeepSeek-V3 3.2.2).
        Rule::function(
            "send-rows-while-experts-compute",
            "@combine(collect(v[c] f(slices of w[c] dispatch(x, c)), c), weight, ..) => \
             @spread_experts[f, k, n](x, c, weight, w, v, ..)",
            &["@combine"],
            exchange::spread_experts,
        )
        .at(exchange::results_are_collected),
        // f(g(x), y): what is computed element by element stays in registers.
        Rule::function(
            "pointwise-in-one-pass",
            "@pointwise[f](.., @pointwise[g](xs), ..) => @pointwise[f after g](.., xs, ..)",
            &["@pointwise"],
            |rw, class, node| pointwise::compose(rw, class, node, pointwise::vanishes),
        )
        .at(pointwise::an_input_need_not_be_stored),
        // What is stored for somebody else may still be cheaper to compute than to read.
        Rule::function(
            "recompute-what-would-be-read",
            "@pointwise[f](.., @pointwise[g](xs), ..) => @pointwise[f after g](.., xs, ..), \
             where f reads xs too",
            &["@pointwise"],
            |rw, class, node| pointwise::compose(rw, class, node, pointwise::is_read_anyway),
        )
        .at(pointwise::an_input_is_known_by_others),
    ]
}

/// Most tensors that a combine adds: the shared experts' output and the residual, and one more.
const MOST_ADDS: usize = 3;

/// The orders of a sum of two values of one shape.
fn terms(rw: &Rewriter<'_>, node: &Node) -> Vec<(Id, Id)> {
    let orders = [(0, 1), (1, 0)].map(|(a, b)| (node.children[a], node.children[b]));
    orders.into_iter().filter(|(a, b)| rw.ty(*a).shape == rw.ty(*b).shape).collect()
}

/// The combines of a class that can add one value more.
fn combines(rw: &Rewriter<'_>, class: Id) -> Vec<Node> {
    let mut found = rw.nodes(class, "@combine");
    found.retain(|combine| combine.children.len() - 2 < MOST_ADDS);
    found
}

/// One of two values of one shape is a combine that adds fewer than three.
fn a_term_is_a_combine(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    terms(rw, node).iter().any(|(sum, _)| !combines(rw, *sum).is_empty())
}

/// What others read too stays a value of its own: it would be combined twice, and the residual of
/// every layer would reach into the layers before it.
fn only_the_sum_reads_it(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    let alone = |sum: Id| !combines(rw, sum).is_empty() && rw.readers(sum).len() <= 1;
    terms(rw, node).iter().any(|(sum, _)| alone(*sum))
}

fn add_into_combine(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    for (sum, residual) in terms(rw, node) {
        if rw.readers(sum).len() > 1 {
            continue;
        }
        for combine in combines(rw, sum) {
            let operands = [combine.children.as_slice(), &[residual]].concat();
            if let Some(equal) = rw.add(Term::Kernel(Kernel::Combine), node.dtype, operands) {
                rw.equate(class, equal);
            }
        }
    }
}

/// The sums of two values of one shape that a class is.
fn sums_of_rows(rw: &Rewriter<'_>, class: Id) -> Vec<(Id, Id)> {
    rw.nodes(class, "add").iter().filter_map(|add| terms(rw, add).first().copied()).collect()
}

/// What is normed is a sum of two values of one shape.
fn the_normed_is_a_sum_of_rows(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    !sums_of_rows(rw, node.children[0]).is_empty()
}

fn add_before_norm(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    let Term::Math(Op::RmsNorm { eps }) = node.term else { return };
    let (sum, weight) = (node.children[0], node.children[1]);
    let sum_type: DType = rw.ty(sum).dtype;
    for (x, residual) in sums_of_rows(rw, sum) {
        let kernel = Term::Kernel(Kernel::AddRmsNorm { eps, sum: sum_type });
        let Some(both) = rw.add(kernel, node.dtype, vec![x, residual, weight]) else { continue };
        let normed = rw.add(Term::First, node.dtype, vec![both]);
        let summed = rw.add(Term::Second { per: 1 }, sum_type, vec![both]);
        if let (Some(normed), Some(summed)) = (normed, summed) {
            rw.equate(class, normed);
            rw.equate(sum, summed);
        }
    }
}
