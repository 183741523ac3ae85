//! The pieces of text that all imported models share.

/// A number as the language writes it.
pub(super) fn number(x: f64) -> String {
    if x.fract() == 0.0 && x.abs() < 1e12 { format!("{x:.0}") } else { format!("{x:?}") }
}

/// `, eps = 1e-5`, where it is not the language's default.
pub(super) fn epsilon(eps: f64) -> String {
    if eps == 1e-6 { String::new() } else { format!(", eps = {eps:?}") }
}

/// The feed-forward block: SwiGLU for `silu`.
pub(super) fn mlp(activation: &str) -> String {
    format!(
        r#"
block Mlp(inner) {{
  param gate: [inner, hidden] = "gate_proj.weight"
  param up: [inner, hidden] = "up_proj.weight"
  param down: [hidden, inner] = "down_proj.weight"
  fn (x: [T, hidden]) -> [T, hidden] {{
    linear({activation}(linear(x, gate)) * linear(x, up), down)
  }}
}}
"#
    )
}

/// A layer: attention, then `block` under the prefix `prefix`, each with a norm before it.
pub(super) fn layer(name: &str, block: &str, prefix: &str, eps: f64) -> String {
    let eps = epsilon(eps);
    format!(
        r#"
block {name} {{
  param attention_norm: [hidden] = "input_layernorm.weight"
  use attention: Attention = "self_attn"
  param mlp_norm: [hidden] = "post_attention_layernorm.weight"
  use mlp: {block} = "{prefix}"
  fn (x: [T, hidden]) -> [T, hidden] {{
    let h = x + attention(rms_norm(x, attention_norm{eps}))
    h + mlp(rms_norm(h, mlp_norm{eps}))
  }}
}}
"#
    )
}

/// What the experts do: a line of `route` and its result.
pub(super) fn route(activation: &str) -> String {
    format!(
        "route(x, chosen, weight) |t, e| {{ linear({activation}(linear(t, gate[e])) * linear(t, up[e]), down[e]) }}"
    )
}
