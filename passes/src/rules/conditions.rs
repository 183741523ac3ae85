//! Side conditions of rules, and the attributes that rules compute.

use crate::language::Attr;
use crate::pattern::Match;
use moec_ir::{DType, Dim, ScaleFormat};

/// The two have equal types.
pub(super) fn same_type(m: &Match<'_>, on: &[&str]) -> bool {
    m.ty(on[0]).is_some() && m.ty(on[0]) == m.ty(on[1])
}

/// The elements of the two have equal types.
pub(super) fn same_elements(m: &Match<'_>, on: &[&str]) -> bool {
    let dtype = |name| m.ty(name).map(|ty| ty.dtype);
    dtype(on[0]).is_some() && dtype(on[0]) == dtype(on[1])
}

/// The elements are float32.
pub(super) fn is_f32(m: &Match<'_>, on: &[&str]) -> bool {
    m.ty(on[0]).is_some_and(|ty| ty.dtype == DType::F32)
}

/// The two have equal shapes.
pub(super) fn same_shape(m: &Match<'_>, on: &[&str]) -> bool {
    m.shape(on[0]).is_some() && m.shape(on[0]) == m.shape(on[1])
}

/// The last axes of the two have equal sizes.
pub(super) fn same_columns(m: &Match<'_>, on: &[&str]) -> bool {
    let last = |name| m.shape(name).and_then(<[Dim]>::last);
    last(on[0]).is_some() && last(on[0]) == last(on[1])
}

/// `[R, 1, N]`: one head, which all may share.
pub(super) fn one_head(m: &Match<'_>, on: &[&str]) -> bool {
    matches!(m.shape(on[0]), Some([_, heads, _]) if heads.is_one())
}

/// `[R, H, N]` has as many heads as the weight `[H, N, K]` has matrices.
pub(super) fn same_heads(m: &Match<'_>, on: &[&str]) -> bool {
    matches!((m.shape(on[0]), m.shape(on[1])), (Some([_, h, _]), Some([g, _, _])) if h == g)
}

/// `p` is `[T, k]` like the third, and `s` gives it a last axis of one, for all of a row.
pub(super) fn one_for_each_row(m: &Match<'_>, on: &[&str]) -> bool {
    match (m.shape(on[0]), m.shape(on[1]), m.shape(on[2])) {
        (Some([t, k, one]), Some(p), Some(rows)) => {
            one.is_one() && p == rows && p == [t.clone(), k.clone()]
        }
        _ => false,
    }
}

/// Scales are not rounded: the greatest element of a block becomes the greatest e4m3.
pub(super) fn scales_are_exact(m: &Match<'_>, on: &[&str]) -> bool {
    m.scales(on[0]) == Some(ScaleFormat::F32)
}

/// Every number of the second's element type is one of the first's.
pub(super) fn holds_all_of(m: &Match<'_>, on: &[&str]) -> bool {
    let dtype = |name| m.ty(name).map(|ty| ty.dtype);
    match (dtype(on[0]), dtype(on[1])) {
        (Some(wide), Some(narrow)) => {
            wide == narrow
                || wide == DType::F32 && matches!(narrow, DType::Bf16 | DType::F8e4m3)
                || wide == DType::Bf16 && narrow == DType::F8e4m3
        }
        _ => false,
    }
}

/// A number.
pub(super) fn is_number(m: &Match<'_>, on: &[&str]) -> bool {
    m.real(on[0]).is_some()
}

/// The axes stay in their order.
pub(super) fn in_order(m: &Match<'_>, on: &[&str]) -> bool {
    m.order(on[0]).is_some_and(|o| o.iter().copied().eq(0..o.len()))
}

/// The axis is not the outermost, which counts tokens.
pub(super) fn beyond_tokens(m: &Match<'_>, on: &[&str]) -> bool {
    m.int(on[0]).is_some_and(|axis| axis >= 1)
}

/// The outermost axis of both counts the tokens in the cache.
pub(super) fn both_lead_with_past(m: &Match<'_>, on: &[&str]) -> bool {
    let leads = |name| m.shape(name).is_some_and(crate::language::leads_with_past);
    leads(on[0]) && leads(on[1])
}

/// `x [R, K]` as `[R, 1, K]`, where `s` splits the columns of `linear(x, w) [R, H * N]` in two.
pub(super) fn as_one_head(m: &Match<'_>) -> Option<Attr> {
    match (m.shape("x")?, m.shape("s")?) {
        ([rows, k], [r, _, _]) if rows == r => {
            Some(Attr::Shape(vec![rows.clone(), Dim::from(1), k.clone()]))
        }
        _ => None,
    }
}

/// `w [H * N, K]` as `[H, N, K]`, where `s` is `[R, H, N]`.
pub(super) fn weight_by_heads(m: &Match<'_>) -> Option<Attr> {
    match (m.shape("w")?, m.shape("s")?) {
        ([_, k], [_, h, n]) => Some(Attr::Shape(vec![h.clone(), n.clone(), k.clone()])),
        _ => None,
    }
}

/// Where a slice of a slice begins.
pub(super) fn sum_of_starts(m: &Match<'_>) -> Option<Attr> {
    m.int("i")?.checked_add(m.int("j")?).map(Attr::Int)
}

/// Axis `i` of the result is axis `p[i]` of the inner, which is axis `q[p[i]]` of the operand.
pub(super) fn composed_order(m: &Match<'_>) -> Option<Attr> {
    let (p, q) = (m.order("p")?, m.order("q")?);
    p.iter().map(|&axis| q.get(axis).copied()).collect::<Option<_>>().map(Attr::Order)
}

/// Number of experts of `w [E, N, K]`.
pub(super) fn number_of_experts(m: &Match<'_>) -> Option<Attr> {
    m.shape("w")?.first()?.constant().map(Attr::Int)
}

/// Experts per token of `chosen [T, k]`.
pub(super) fn experts_per_token(m: &Match<'_>) -> Option<Attr> {
    m.shape("chosen")?.last()?.constant().map(Attr::Int)
}
