//! Routed experts that are spread over ranks, as one kernel.

use crate::language::{Kernel, Node, Spread, Term};
use crate::pattern::Rewriter;
use egg::Id;
use moec_ir::kernel::Scalar;
use moec_ir::{DType, Dim, Op, ScaleFormat};

/// From what is combined back to what was dispatched: two products of experts and a function of
/// elements in between.
pub(super) fn spread_experts(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    let [y, weight, adds @ ..] = node.children.as_slice() else { return };
    let (y, weight) = (*y, *weight);
    for collect in rw.nodes(y, "collect") {
        let (result, chosen) = (collect.children[0], collect.children[1]);
        for second in products(rw, result, chosen) {
            for between in functions(rw, &second) {
                for (hidden, starts) in pieces(rw, &between.inputs) {
                    for first in products(rw, hidden, chosen) {
                        let sides = Sides { first: &first, second: &second, between: &between };
                        let around = [hidden, result, chosen, weight];
                        let spread = build(rw, node.dtype, sides, starts.clone(), around, adds);
                        if let Some(spread) = spread {
                            rw.equate(class, spread);
                        }
                    }
                }
            }
        }
    }
}

/// What is combined comes back from other ranks.
pub(super) fn results_are_collected(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    node.children.first().is_some_and(|y| !rw.nodes(*y, "collect").is_empty())
}

/// A product of experts: operands, and the block of its scales where it is of FP8.
struct Product {
    a: Id,
    w: Id,
    scales: Option<([Id; 2], [u64; 2])>,
    top_k: u64,
    n_experts: u64,
}

/// The products that give a class, of the experts chosen.
fn products(rw: &Rewriter<'_>, class: Id, chosen: Id) -> Vec<Product> {
    let routed = |route: Id| {
        rw.nodes(route, "@route_plan").into_iter().find_map(|plan| match plan.term {
            Term::Kernel(Kernel::RoutePlan { n_experts })
                if rw.egraph.find(plan.children[0]) == rw.egraph.find(chosen) =>
            {
                Some(n_experts)
            }
            _ => None,
        })
    };
    let plain = rw.nodes(class, "@grouped_gemm").into_iter();
    let scaled = rw.nodes(class, "@scaled_grouped_gemm").into_iter();
    plain
        .chain(scaled)
        .filter_map(|node| match (&node.term, node.children.as_slice()) {
            (Term::Kernel(Kernel::GroupedGemm { top_k }), &[a, w, route]) => {
                let n_experts = routed(route)?;
                Some(Product { a, w, scales: None, top_k: *top_k, n_experts })
            }
            (Term::Kernel(Kernel::ScaledGroupedGemm { top_k, block }), &[a, s, w, t, route]) => {
                let (n_experts, scales) = (routed(route)?, Some(([s, t], *block)));
                Some(Product { a, w, scales, top_k: *top_k, n_experts })
            }
            _ => None,
        })
        .collect()
}

/// A function of elements, and how its result is quantised.
struct Between {
    code: Vec<Scalar>,
    inputs: Vec<Id>,
    quantized: Option<(u64, ScaleFormat)>,
}

/// The functions that give what a product reads.
fn functions(rw: &Rewriter<'_>, product: &Product) -> Vec<Between> {
    let Some(([scale, _], _)) = product.scales else {
        let nodes = rw.nodes(product.a, "@pointwise").into_iter();
        let of = |node: Node| match node.term {
            Term::Kernel(Kernel::Pointwise(code)) => {
                Some(Between { code, inputs: node.children, quantized: None })
            }
            _ => None,
        };
        return nodes.filter_map(of).collect();
    };
    let gives = |all: Id| {
        let second = rw.nodes(scale, "second").into_iter();
        second.map(|n| n.children[0]).any(|n| rw.egraph.find(n) == rw.egraph.find(all))
    };
    let results = rw.nodes(product.a, "first").into_iter().map(|n| n.children[0]);
    results
        .filter(|all| gives(*all))
        .flat_map(|all| rw.nodes(all, "@pointwise_quantize"))
        .filter_map(|node| match node.term {
            Term::Kernel(Kernel::PointwiseQuantize { code, block, scales }) => {
                Some(Between { code, inputs: node.children, quantized: Some((block, scales)) })
            }
            _ => None,
        })
        .collect()
}

/// The values of which all inputs are pieces along the last axis, and where those begin.
fn pieces(rw: &Rewriter<'_>, inputs: &[Id]) -> Vec<(Id, Vec<u64>)> {
    let of = |input: Id| {
        let slices = rw.nodes(input, "slice").into_iter();
        let slices = slices.filter_map(|node| match node.term {
            Term::Math(Op::Slice { axis: 2, start, .. }) => Some((node.children[0], start)),
            _ => None,
        });
        slices.chain([(input, 0)]).map(|(whole, start)| (rw.egraph.find(whole), start))
    };
    let Some((first, rest)) = inputs.split_first() else { return vec![] };
    let wholes = of(*first).collect::<Vec<_>>().into_iter();
    wholes
        .filter_map(|(whole, start)| {
            let starts = rest
                .iter()
                .map(|input| of(*input).find(|(other, _)| *other == whole).map(|(_, start)| start));
            let starts = std::iter::once(Some(start)).chain(starts).collect::<Option<Vec<u64>>>();
            starts.map(|starts| (whole, starts))
        })
        .collect()
}

/// Both products and what lies between them.
#[derive(Clone, Copy)]
struct Sides<'a> {
    first: &'a Product,
    second: &'a Product,
    between: &'a Between,
}

/// The kernel, where what the first product reads was dispatched.
fn build(
    rw: &mut Rewriter<'_>,
    dtype: DType,
    Sides { first, second, between }: Sides<'_>,
    inputs: Vec<u64>,
    [hidden, result, chosen, weight]: [Id; 4],
    adds: &[Id],
) -> Option<Id> {
    let sent = |value: Id| {
        let nodes = rw.nodes(value, "dispatch").into_iter();
        let same = |node: &Node| rw.egraph.find(node.children[1]) == rw.egraph.find(chosen);
        nodes.filter(same).map(|node| node.children[0]).next()
    };
    let row = |value: Id| {
        let ty = rw.ty(value);
        Some((ty.shape.last().and_then(Dim::constant)?, ty.dtype))
    };
    let middle = row(second.a)?;
    if between.inputs.iter().any(|i| row(*i).is_none_or(|(n, _)| n != middle.0)) {
        return None;
    }
    let spread = Spread {
        top_k: first.top_k,
        n_experts: first.n_experts,
        code: between.code.clone(),
        inputs,
        quantized: between.quantized,
        blocks: [first.scales.map(|(_, block)| block), second.scales.map(|(_, block)| block)],
        hidden: row(hidden)?,
        middle,
        result: row(result)?,
    };
    let mut operands = vec![sent(first.a)?];
    if let Some(([scale, _], _)) = first.scales {
        operands.push(sent(scale)?);
    }
    operands.extend([chosen, weight, first.w]);
    operands.extend(first.scales.map(|([_, scale], _)| scale));
    operands.push(second.w);
    operands.extend(second.scales.map(|([_, scale], _)| scale));
    operands.extend(adds);
    rw.add(Term::Kernel(Kernel::SpreadExperts(Box::new(spread))), dtype, operands)
}
