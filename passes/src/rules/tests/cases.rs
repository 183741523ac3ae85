//! Where each rule fires and where it must not.

/// A rule and two expressions over the same leaves.
pub(super) struct Case {
    pub(super) rule: &'static str,
    pub(super) leaves: &'static [&'static str],
    /// The rule fires here.
    pub(super) fires: &'static str,
    /// The rule must not fire here.
    pub(super) not: &'static str,
}

const fn case(
    rule: &'static str,
    leaves: &'static [&'static str],
    fires: &'static str,
    not: &'static str,
) -> Case {
    Case { rule, leaves, fires, not }
}

/// In the order of the tables.
pub(super) const CASES: &[Case] = &[
    // Lowering.
    case(
        "linear-is-a-gemm",
        &["x: bf16[T, 4]", "w: param bf16[3, 4]"],
        "linear(x, w)",
        "mul(x, x)",
    ),
    case(
        "linear-of-heads-is-a-gemm",
        &["x: bf16[T, 2, 4]", "w: param bf16[2, 3, 4]", "v: param bf16[3, 4]"],
        "head_linear(x, w)",
        "linear(x, v)",
    ),
    case(
        "linear-of-experts-is-a-grouped-gemm",
        &["x: bf16[T, 4]", "w: param bf16[3, 5, 4]", "v: param bf16[5, 4]", "c: i32[T, 2]"],
        "expert_linear(x, w, c)",
        "linear(x, v)",
    ),
    case(
        "quantising-is-a-kernel",
        &["x: bf16[T, 6]", "f: scales f32"],
        "quantize[4, f](x)",
        "block_scale[4, f](x)",
    ),
    case(
        "scales-are-its-second-result",
        &["x: bf16[T, 6]", "f: scales f32"],
        "block_scale[4, f](x)",
        "quantize[4, f](x)",
    ),
    case(
        "dequantising-is-a-product",
        &["q: f8e4m3[T, 2, 11]", "s: f32[T, 2, 3]", "w: param f8e4m3[5, 11]", "t: param f32[5, 3]"],
        "dequantize[1, 4](q, s)",
        // Weights are dequantised when they are loaded.
        "dequantize[1, 4](w, t)",
    ),
    case(
        "combine-is-a-kernel",
        &["y: bf16[T, 2, 4]", "w: f32[T, 2]"],
        "combine(y, w)",
        "mul(y, y)",
    ),
    case(
        "norm-is-a-kernel",
        &["x: bf16[T, 4]", "w: param bf16[4]", "eps: real 0.01"],
        "rms_norm[eps](x, w)",
        "mul(x, w)",
    ),
    case("softmax-is-a-kernel", &["x: f32[T, 4]"], "softmax(x)", "exp(x)"),
    case("reduction-is-a-kernel", &["x: f32[T, 4]", "f: reduce mean"], "reduce[f](x)", "exp(x)"),
    case("rotation-is-a-kernel", &["x: bf16[T, 2, 4]", "r: rotary 4"], "rotary[r](x)", "neg(x)"),
    case("lookup-is-a-gather", &["x: param bf16[5, 4]", "i: i32[T]"], "lookup(x, i)", "neg(x)"),
    case("choice-is-a-kernel", &["x: f32[T, 6]", "g: groups 2 of 3"], "top_k[2, g](x)", "neg(x)"),
    case("pick-is-a-kernel", &["x: f32[T, 4]", "c: i32[T, 2]"], "pick(x, c)", "neg(x)"),
    case(
        "elements-are-a-kernel",
        &["x: f32[T, 4]", "y: bf16[4]", "a: real 2.5"],
        "div(silu(x), sub(y, constant[a]))",
        "softmax(x)",
    ),
    case(
        "pieces-are-copied-together",
        &["x: bf16[T, 4]", "y: bf16[T, 3]"],
        "concat[1](x, y)",
        "slice[1, 0, 2](x)",
    ),
    case(
        "append-is-scatter-and-gather",
        &["c: cache bf16[4]", "x: bf16[T, 4]"],
        "append(c, x)",
        "neg(x)",
    ),
    case(
        "attention-of-packed-rows",
        &["q: bf16[T, 4, 3]", "k: bf16[S, 2, 3]", "v: bf16[S, 2, 5]", "s: real 0.5"],
        "attend[s](q, k, v)",
        "scores(q, k)",
    ),
    case(
        "attention-in-the-cache",
        &["q: bf16[T, 4, 3]", "c: cache bf16[2, 3]", "x: bf16[T, 2, 3]", "s: real 0.5"],
        "attend[s](q, append(c, x), append(c, x))",
        "scores(q, append(c, x))",
    ),
    case(
        "mix-is-attention",
        &[
            "q: bf16[T, 4, 3]",
            "r: bf16[T, 4, 2]",
            "k: bf16[S, 1, 3]",
            "l: bf16[S, 2, 2]",
            "v: bf16[S, 2, 5]",
            "s: real 0.5",
        ],
        "mix(causal_softmax(mul(add(scores(q, k), scores(r, l)), constant[s])), v)",
        "mix(causal_softmax(tanh(scores(q, k))), v)",
    ),
    case(
        "rows-stay-in-the-cache",
        &["c: cache bf16[4]", "x: bf16[T, 4]"],
        "in_cache(append(c, x))",
        "append(c, x)",
    ),
    case(
        "slices-stay-in-the-cache",
        &["c: cache bf16[4]", "x: bf16[T, 4]"],
        "in_cache(slice[1, 1, 2](append(c, x)))",
        "slice[1, 1, 2](append(c, x))",
    ),
    case(
        "shapes-stay-in-the-cache",
        &["c: cache bf16[4]", "x: bf16[T, 4]", "s: shape f32[S, 2, 2]", "t: shape f32[2*S, 2]"],
        "in_cache(reshape[s](append(c, x)))",
        "in_cache(reshape[t](append(c, x)))",
    ),
    case(
        "repeats-stay-in-the-cache",
        &[
            "c: cache bf16[1, 4]",
            "x: bf16[T, 1, 4]",
            "y: bf16[1, 4]",
            "s: shape f32[S, 3, 4]",
            "t: shape f32[3, 4]",
        ],
        "in_cache(broadcast[s](append(c, x)))",
        "in_cache(broadcast[t](y))",
    ),
    // Algebra.
    case(
        "attention-is-a-weighted-mix",
        &["q: bf16[T, 4, 3]", "k: bf16[S, 2, 3]", "v: bf16[S, 1, 5]", "s: real 0.5"],
        "attend[s](q, k, v)",
        "mix(causal_softmax(scores(q, k)), v)",
    ),
    case(
        "scores-add-up-over-parts",
        &["a: bf16[T, 2, 3]", "b: bf16[T, 2, 2]", "c: bf16[S, 1, 3]", "d: bf16[S, 1, 2]"],
        "scores(concat[2](a, b), concat[2](c, d))",
        // The pieces of queries and keys do not match.
        "scores(concat[2](a, b), concat[2](d, c))",
    ),
    case(
        "shared-keys-need-no-copies",
        &[
            "q: bf16[T, 4, 3]",
            "k: bf16[S, 1, 3]",
            "s: shape f32[S, 4, 3]",
            "l: bf16[S, 2, 3]",
            "t: shape f32[S, 2, 3]",
        ],
        "scores(q, broadcast[s](k))",
        "scores(q, broadcast[t](l))",
    ),
    case(
        "shared-values-need-no-copies",
        &[
            "q: bf16[T, 4, 3]",
            "v: bf16[S, 1, 3]",
            "s: shape f32[S, 4, 3]",
            "l: bf16[S, 2, 3]",
            "t: shape f32[S, 2, 3]",
        ],
        "mix(causal_softmax(scores(q, v)), broadcast[s](v))",
        "mix(causal_softmax(scores(q, v)), broadcast[t](l))",
    ),
    case(
        "absorb-key-projection",
        &[
            "q: bf16[T, 4, 3]",
            "c: bf16[S, 1, 5]",
            "w: param bf16[4, 3, 5]",
            "u: param bf16[2, 3, 5]",
        ],
        "scores(q, head_linear(c, w))",
        // Two heads of queries share one of keys: there is no one matrix to move.
        "scores(q, head_linear(c, u))",
    ),
    case(
        "absorb-value-projection",
        &[
            "q: bf16[T, 4, 5]",
            "c: bf16[S, 1, 5]",
            "w: param bf16[4, 3, 5]",
            "u: param bf16[2, 3, 5]",
        ],
        "mix(causal_softmax(scores(q, c)), head_linear(c, w))",
        "mix(causal_softmax(scores(q, c)), head_linear(c, u))",
    ),
    case(
        "linear-by-heads",
        &[
            "x: bf16[T, 4]",
            "w: param bf16[6, 4]",
            "s: shape f32[T, 2, 3]",
            "t: shape f32[2*T, 1, 3]",
        ],
        "reshape[s](linear(x, w))",
        // Tokens and heads are mixed.
        "reshape[t](linear(x, w))",
    ),
    case(
        "slice-the-weight-of-heads",
        &["x: bf16[T, 1, 4]", "w: param bf16[2, 5, 4]"],
        "slice[2, 1, 3](head_linear(x, w))",
        "slice[1, 1, 1](head_linear(x, w))",
    ),
    case(
        "share-the-operand",
        &["x: bf16[T, 4]", "w: param bf16[3, 4]", "u: param bf16[5, 4]", "y: bf16[T, 4]"],
        "concat[1](linear(x, w), linear(x, u))",
        "concat[1](linear(x, w), linear(y, u))",
    ),
    case(
        "share-the-operand-of-experts",
        &[
            "x: bf16[T, 4]",
            "w: param bf16[3, 5, 4]",
            "u: param bf16[3, 2, 4]",
            "c: i32[T, 2]",
            "d: i32[T, 2]",
        ],
        "concat[2](expert_linear(x, w, c), expert_linear(x, u, c))",
        // Other experts are chosen.
        "concat[2](expert_linear(x, w, c), expert_linear(x, u, d))",
    ),
    case(
        "quantise-before-dispatch",
        &["q: f8e4m3[T, 6]", "s: f32[T, 2]", "c: i32[T, 2]", "x: bf16[T, 6]"],
        "dispatch(dequantize[1, 4](q, s), c)",
        "dispatch(x, c)",
    ),
    case(
        "dequantise-weights-together",
        &[
            "w: param f8e4m3[4, 6]",
            "s: param f32[2, 2]",
            "u: param f8e4m3[3, 6]",
            "t: param f32[2, 2]",
        ],
        "concat[0](dequantize[2, 4](w, s), dequantize[2, 4](u, t))",
        // The first weight ends within a block.
        "concat[0](dequantize[2, 4](u, t), dequantize[2, 4](w, s))",
    ),
    case(
        "scale-the-weights-of-experts",
        &["y: bf16[T, 2, 4]", "w: f32[T, 2]", "a: real 2.5", "b: bf16[T, 4]"],
        "mul(combine(y, w), constant[a])",
        "mul(combine(y, w), b)",
    ),
    case(
        "weights-join-the-combine",
        &[
            "y: bf16[T, 2, 4]",
            "p: f32[T, 2]",
            "w: f32[T, 2]",
            "s: shape f32[T, 2, 1]",
            "q: f32[T, 8]",
            "t: shape f32[T, 2, 4]",
        ],
        "combine(mul(y, reshape[s](p)), w)",
        // A factor on each element.
        "combine(mul(y, reshape[t](q)), w)",
    ),
    case(
        "weights-pass-through-experts",
        &[
            "h: bf16[T, 2, 4]",
            "p: bf16[T, 2]",
            "w: param bf16[3, 5, 4]",
            "c: i32[T, 2]",
            "s: shape f32[T, 2, 1]",
            "q: bf16[T, 8]",
            "t: shape f32[T, 2, 4]",
        ],
        "expert_linear(mul(h, reshape[s](p)), w, c)",
        "expert_linear(mul(h, reshape[t](q)), w, c)",
    ),
    case(
        "quantise-once",
        &["x: bf16[T, 6]", "f: scales f32", "g: scales ue8m0"],
        "quantize[4, f](dequantize[1, 4](quantize[4, f](x), block_scale[4, f](x)))",
        // The power of two above may be another one the second time.
        "quantize[4, g](dequantize[1, 4](quantize[4, g](x), block_scale[4, g](x)))",
    ),
    case(
        "scale-once",
        &["x: bf16[T, 6]", "y: bf16[T, 6]", "f: scales f32"],
        "block_scale[4, f](dequantize[1, 4](quantize[4, f](x), block_scale[4, f](x)))",
        // The scales are of other numbers.
        "block_scale[4, f](dequantize[1, 4](quantize[4, f](x), block_scale[4, f](y)))",
    ),
    case(
        "reshape-once",
        &["x: bf16[T, 12]", "r: shape f32[T, 3, 4]", "s: shape f32[T, 2, 6]"],
        "reshape[s](reshape[r](x))",
        "reshape[s](neg(x))",
    ),
    case(
        "reshape-to-own-shape",
        &["x: bf16[T, 12]", "r: shape f32[T, 12]", "s: shape f32[T, 2, 6]"],
        "reshape[r](x)",
        "reshape[s](x)",
    ),
    case(
        "broadcast-to-own-shape",
        &["x: bf16[T, 1]", "r: shape f32[T, 1]", "s: shape f32[T, 6]"],
        "broadcast[r](x)",
        "broadcast[s](x)",
    ),
    case(
        "slice-once",
        &["x: bf16[T, 9, 2]"],
        "slice[1, 1, 2](slice[1, 3, 4](x))",
        "slice[2, 1, 1](slice[1, 3, 4](x))",
    ),
    case("slice-of-everything", &["x: bf16[T, 9]"], "slice[1, 0, 9](x)", "slice[1, 0, 8](x)"),
    case(
        "transpose-once",
        &["x: bf16[T, 2, 3]"],
        "transpose[(1 2 0)](transpose[(1 0 2)](x))",
        "transpose[(1 2 0)](x)",
    ),
    case(
        "transpose-of-nothing",
        &["x: bf16[T, 2, 3]"],
        "transpose[(0 1 2)](x)",
        "transpose[(0 2 1)](x)",
    ),
    case(
        "slice-of-one-piece",
        &["x: bf16[T, 3]", "y: bf16[T, 5]"],
        "slice[1, 4, 3](concat[1](x, y))",
        "slice[1, 2, 3](concat[1](x, y))",
    ),
    case(
        "concat-of-neighbours",
        &["x: bf16[T, 9]"],
        "concat[1](slice[1, 2, 3](x), slice[1, 5, 1](x))",
        "concat[1](slice[1, 5, 1](x), slice[1, 2, 3](x))",
    ),
    case("cast-to-own-type", &["x: bf16[T, 3]"], "cast(x)", "neg(x)"),
    case("cast-once", &["x: bf16[T, 3]"], "cast(cast(x))", "cast(neg(x))"),
    // Fusion.
    case(
        "add-inside-the-gemm",
        &["x: bf16[T, 4]", "w: param bf16[3, 4]", "r: bf16[T, 3]", "b: param bf16[3]"],
        "add(linear(x, w), r)",
        "add(linear(x, w), b)",
    ),
    case(
        "add-the-gemm-to-it",
        &["x: bf16[T, 4]", "w: param bf16[3, 4]", "r: bf16[T, 3]", "b: param bf16[3]"],
        "add(r, linear(x, w))",
        "add(b, linear(x, w))",
    ),
    case(
        "scale-inside-the-gemm",
        &[
            "x: f8e4m3[T, 6]",
            "s: f32[T, 2]",
            "v: f32[T, 3]",
            "w: param f8e4m3[3, 6]",
            "t: param f32[2, 2]",
        ],
        "linear(dequantize[1, 4](x, s), dequantize[2, 4](w, t))",
        // Blocks of other widths.
        "linear(dequantize[1, 2](x, v), dequantize[2, 4](w, t))",
    ),
    case(
        "scale-inside-the-gemm-of-experts",
        &[
            "x: f8e4m3[T, 6]",
            "s: f32[T, 2]",
            "w: param f8e4m3[3, 5, 6]",
            "t: param f32[3, 3, 2]",
            "c: i32[T, 2]",
            "y: bf16[T, 6]",
        ],
        "expert_linear(dequantize[1, 4](x, s), dequantize[2, 4](w, t), c)",
        "expert_linear(y, dequantize[2, 4](w, t), c)",
    ),
    case(
        "scale-weights-inside-the-gemm",
        &["x: f32[T, 6]", "y: bf16[T, 6]", "w: param f8e4m3[3, 6]", "t: param f32[2, 2]"],
        "linear(x, dequantize[2, 4](w, t))",
        "linear(y, dequantize[2, 4](w, t))",
    ),
    case(
        "scale-weights-inside-the-gemm-of-experts",
        &[
            "x: f32[T, 6]",
            "y: bf16[T, 6]",
            "w: param f8e4m3[3, 5, 6]",
            "t: param f32[3, 3, 2]",
            "c: i32[T, 2]",
        ],
        "expert_linear(x, dequantize[2, 4](w, t), c)",
        "expert_linear(y, dequantize[2, 4](w, t), c)",
    ),
    case(
        "scale-and-add-inside-the-gemm",
        &[
            "x: f8e4m3[T, 6]",
            "s: f32[T, 2]",
            "w: param f8e4m3[3, 6]",
            "t: param f32[2, 2]",
            "r: bf16[T, 3]",
            "b: param bf16[3]",
        ],
        "add(linear(dequantize[1, 4](x, s), dequantize[2, 4](w, t)), r)",
        "add(linear(dequantize[1, 4](x, s), dequantize[2, 4](w, t)), b)",
    ),
    case(
        "scale-the-gemm-and-add-it",
        &[
            "x: f8e4m3[T, 6]",
            "s: f32[T, 2]",
            "w: param f8e4m3[3, 6]",
            "t: param f32[2, 2]",
            "r: bf16[T, 3]",
            "b: param bf16[3]",
        ],
        "add(r, linear(dequantize[1, 4](x, s), dequantize[2, 4](w, t)))",
        "add(b, linear(dequantize[1, 4](x, s), dequantize[2, 4](w, t)))",
    ),
    case(
        "add-inside-the-combine",
        &["y: bf16[T, 2, 4]", "w: f32[T, 2]", "r: bf16[T, 4]", "q: bf16[T, 4]", "b: bf16[4]"],
        "add(q, add(combine(y, w), r))",
        "add(combine(y, w), b)",
    ),
    case(
        "add-before-the-norm",
        &["x: bf16[T, 4]", "r: bf16[T, 4]", "w: param bf16[4]", "b: bf16[4]", "eps: real 0.01"],
        "rms_norm[eps](add(x, r), w)",
        "rms_norm[eps](add(x, b), w)",
    ),
    case(
        "quantise-after-the-norm",
        &["x: bf16[T, 6]", "w: param bf16[6]", "eps: real 0.01", "f: scales f32"],
        "quantize[4, f](rms_norm[eps](x, w))",
        "quantize[4, f](x)",
    ),
    case(
        "quantise-after-the-function",
        &["x: bf16[T, 6]", "y: bf16[T, 6]", "f: scales f32"],
        "block_scale[4, f](mul(silu(x), y))",
        "block_scale[4, f](softmax(x))",
    ),
    case(
        "router-in-one-kernel",
        &[
            "l: f32[T, 6]",
            "b: param f32[6]",
            "h: bf16[T, 6]",
            "g: groups 2 of 3",
            "f: reduce sum",
            "a: real 2.5",
        ],
        "mul(div(pick(sigmoid(l), top_k[2, g](add(sigmoid(l), b))), \
         reduce[f](pick(sigmoid(l), top_k[2, g](add(sigmoid(l), b))))), constant[a])",
        // Scores that are rounded before the choice; and a bias that joins the weights.
        "mul(pick(sigmoid(h), top_k[2, g](sigmoid(h))), pick(add(sigmoid(l), b), \
         top_k[2, g](add(sigmoid(l), b))))",
    ),
    case(
        "append-the-latent-as-it-is-made",
        &[
            "c: cache bf16[10]",
            "d: cache f32[10]",
            "x: bf16[T, 6]",
            "k: bf16[T, 4]",
            "w: param bf16[6]",
            "e: real 0.01",
            "r: rotary 4",
        ],
        "append(c, concat[1](rms_norm[e](x, w), rotary[r](k)))",
        // Numbers that are stored would be rounded less often.
        "append(d, concat[1](rms_norm[e](x, w), rotary[r](k)))",
    ),
    case(
        "append-the-latent-as-products-round-it",
        &[
            "c: cache f8e4m3[10]",
            "x: bf16[T, 6]",
            "k: f8e4m3[T, 4]",
            "w: param bf16[6]",
            "e: real 0.01",
            "r: rotary 4",
            "f: scales f32",
        ],
        "append(c, concat[1](dequantize[1, 4](quantize[4, f](rms_norm[e](x, w)), \
         block_scale[4, f](rms_norm[e](x, w))), rotary[r](k)))",
        // The scales are of other numbers.
        "append(c, concat[1](dequantize[1, 4](quantize[4, f](rms_norm[e](x, w)), \
         block_scale[4, f](x)), rotary[r](k)))",
    ),
    case(
        "send-rows-while-experts-compute",
        &[
            "x: bf16[T, 4]",
            "w: param bf16[3, 6, 4]",
            "v: param bf16[3, 5, 6]",
            "c: i32[T, 2]",
            "p: f32[T, 2]",
        ],
        "combine(collect(expert_linear(silu(expert_linear(dispatch(x, c), w, c)), v, c), c), p)",
        // Rows that do not leave their rank.
        "combine(expert_linear(silu(expert_linear(x, w, c)), v, c), p)",
    ),
    case(
        "pointwise-in-one-pass",
        &["x: bf16[T, 4]", "y: f32[T, 1]", "a: real 2.5"],
        "mul(silu(x), div(y, constant[a]))",
        "mul(softmax(x), y)",
    ),
    case(
        "recompute-what-would-be-read",
        &["x: bf16[T, 4]", "y: bf16[T, 4]", "w: param bf16[3, 4]"],
        // The product needs silu(x) in memory, and the other reader has x at hand.
        "concat[1](linear(silu(x), w), mul(silu(x), x))",
        "concat[1](linear(silu(x), w), mul(silu(x), y))",
    ),
];
