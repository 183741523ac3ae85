//! Equalities of mathematics.

use super::conditions::*;
use super::{Rule, layout, scaled, sharing};

/// The table.
pub(super) fn table() -> Vec<Rule> {
    vec![
        // softmax(scale · q kᵀ) v, which is what attention is.
        Rule::equation(
            "attention-is-a-weighted-mix",
            "attend[scale](q, k, v) => mix(causal_softmax(mul(scores(q, k), constant[scale])), v)",
        )
        .anywhere(),
        // [a; b] · [c; d] = a · c + b · d
        Rule::equation(
            "scores-add-up-over-parts",
            "scores(concat[2](a, b), concat[2](c, d)) => add(scores(a, c), scores(b, d))",
        )
        .when(same_columns, &["a", "c"]),
        // A key that all heads share need not be repeated for each.
        Rule::equation("shared-keys-need-no-copies", "scores(q, broadcast[s](k)) => scores(q, k)")
            .when(one_head, &["k"]),
        Rule::equation("shared-values-need-no-copies", "mix(p, broadcast[s](v)) => mix(p, v)")
            .when(one_head, &["v"]),
        // q · (W c) = (Wᵀ q) · c: the key's up-projection moves to the query (DeepSeek-V2 2.1.2).
        Rule::equation(
            "absorb-key-projection",
            "scores(q, head_linear(c, w)) => scores(head_linear(q, transpose[(0 2 1)](w)), c)",
        )
        .when(same_heads, &["q", "w"]),
        // Σ p (W c) = W Σ p c: the value's up-projection moves behind the sum (DeepSeek-V2 2.1.2).
        Rule::equation(
            "absorb-value-projection",
            "mix(p, head_linear(c, w)) => head_linear(mix(p, c), w)",
        )
        .when(same_heads, &["p", "w"]),
        // The rows of a weight that make one head are that head's matrix.
        Rule::equation(
            "linear-by-heads",
            "reshape[s](linear(x, w)) => head_linear(reshape[xs](x), reshape[ws](w))",
        )
        .given("xs", as_one_head)
        .given("ws", weight_by_heads),
        // (W x)[i..j] = W[i..j] x
        Rule::equation(
            "slice-the-weight-of-heads",
            "slice[2, a, n](head_linear(x, w)) => head_linear(x, slice[1, a, n](w))",
        )
        .anywhere(),
        // W₁ x and W₂ x are slices of [W₁; W₂] x.
        Rule::function(
            "share-the-operand",
            "linear(x, w1), linear(x, w2) => slices of linear(x, concat[0](w1, w2))",
            &["linear"],
            sharing::share_operand,
        )
        .at(sharing::another_weight_multiplies_it),
        Rule::function(
            "share-the-operand-of-experts",
            "expert_linear(x, w1, c), expert_linear(x, w2, c) => \
             slices of expert_linear(x, concat[1](w1, w2), c)",
            &["expert_linear"],
            sharing::share_operand,
        )
        .at(sharing::another_weight_multiplies_it),
        // Half the bytes cross to other ranks (DeepSeek-V3 3.3.3).
        Rule::equation(
            "quantise-before-dispatch",
            "dispatch(dequantize[1, b](q, s), c) => \
             dequantize[1, b](dispatch(q, c), dispatch(s, c))",
        )
        .anywhere(),
        // Blocks of rows stay whole where each weight but the last ends with one.
        Rule::function(
            "dequantise-weights-together",
            "concat[a](dequantize[r, c](w1, s1), ..) => \
             dequantize[r, c](concat[a](w1, ..), concat[a](s1, ..))",
            &["concat"],
            scaled::dequantize_together,
        )
        .at(scaled::is_a_stacked_weight)
        .at(scaled::pieces_end_with_blocks),
        // a Σ w y = Σ (a w) y: scales k weights per token and not N elements.
        Rule::equation(
            "scale-the-weights-of-experts",
            "mul(combine(y, w), a) => combine(y, mul(w, a))",
        )
        .when(is_number, &["a"]),
        // Σ w (p y) = Σ (w p) y: a factor on an expert's rows joins their weights.
        Rule::equation(
            "weights-join-the-combine",
            "combine(mul(y, reshape[s](p)), w) => combine(y, mul(w, p))",
        )
        .when(one_for_each_row, &["s", "p", "w"]),
        // W (p h) = p (W h): a factor on a row passes through its expert's matrix.
        Rule::equation(
            "weights-pass-through-experts",
            "expert_linear(mul(h, p=reshape[s](q)), w, c) => mul(expert_linear(h, w, c), p)",
        )
        .when(one_for_each_row, &["s", "q", "c"]),
        // q(s q(x)) = q(x): what was quantised so once is not changed by it again. Where scales are
        // powers of two the second may be half the first.
        Rule::equation(
            "quantise-once",
            "quantize[b, f](dequantize[1, b](quantize[b, f](x), block_scale[b, f](x))) => \
             quantize[b, f](x)",
        )
        .when(scales_are_exact, &["f"]),
        Rule::equation(
            "scale-once",
            "block_scale[b, f](dequantize[1, b](quantize[b, f](x), block_scale[b, f](x))) => \
             block_scale[b, f](x)",
        )
        .when(scales_are_exact, &["f"]),
        // Views of views.
        Rule::equation("reshape-once", "reshape[s](reshape[r](x)) => reshape[s](x)").anywhere(),
        Rule::equation("reshape-to-own-shape", "reshape[s](x) => x").when(same_shape, &["s", "x"]),
        Rule::equation("broadcast-to-own-shape", "broadcast[s](x) => x")
            .when(same_shape, &["s", "x"]),
        Rule::equation("slice-once", "slice[a, i, n](slice[a, j, m](x)) => slice[a, ij, n](x)")
            .given("ij", sum_of_starts),
        Rule::equation("slice-of-everything", "slice[a, i, n](x) => x")
            .when(same_shape, &["out", "x"]),
        Rule::equation("transpose-once", "transpose[p](transpose[q](x)) => transpose[pq](x)")
            .given("pq", composed_order),
        Rule::equation("transpose-of-nothing", "transpose[p](x) => x").when(in_order, &["p"]),
        Rule::function(
            "slice-of-one-piece",
            "slice[a, i, n](concat[a](.., x, ..)) => slice[a, i - start of x, n](x)",
            &["slice"],
            layout::slice_of_concat,
        )
        .at(layout::lies_in_one_piece),
        Rule::function(
            "concat-of-neighbours",
            "concat[a](slice[a, i, n](x), slice[a, i + n, m](x)) => slice[a, i, n + m](x)",
            &["concat"],
            layout::concat_of_slices,
        )
        .at(layout::pieces_are_neighbours),
        // Rounding to the type that a value already has.
        Rule::equation("cast-to-own-type", "cast(x) => x").when(same_type, &["out", "x"]),
        // A wider type on the way changes nothing.
        Rule::equation("cast-once", "cast(y=cast(x)) => cast(x)").when(holds_all_of, &["y", "x"]),
    ]
}
