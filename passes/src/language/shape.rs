//! Types of nodes from the types of their operands.

use super::{Kernel, Node, Term};
use moec_ir::graph::shape::{broadcast, in_blocks, infer};
use moec_ir::{DType, Dim, Op, Sym, TensorType};

/// The type of a node's value. `own` is the type of the input, parameter or cache row that a
/// leaf reads.
///
/// # Errors
/// One sentence with the sizes that disagree.
pub(crate) fn node_type(
    node: &Node,
    operands: &[&TensorType],
    own: Option<&TensorType>,
) -> Result<TensorType, String> {
    let shapes: Vec<&[Dim]> = operands.iter().map(|t| t.shape.as_slice()).collect();
    let shape = match &node.term {
        Term::Math(op) => {
            check_dtypes(op, node.dtype, operands)?;
            infer(op, &shapes, own.map(|t| t.shape.as_slice()))?
        }
        Term::InCache | Term::First | Term::Third => first(&shapes)?.to_vec(),
        Term::Second { per } => in_blocks(first(&shapes)?, *per)?,
        Term::Kernel(kernel) => kernel_shape(kernel, &shapes)?,
    };
    Ok(TensorType { dtype: node.dtype, shape })
}

/// Operations of layout keep the element type.
fn check_dtypes(op: &Op, dtype: DType, operands: &[&TensorType]) -> Result<(), String> {
    let layout = matches!(
        op,
        Op::Reshape(_) | Op::Slice { .. } | Op::Concat { .. } | Op::Transpose(_) | Op::Broadcast(_)
    );
    match operands.iter().find(|t| layout && t.dtype != dtype) {
        Some(t) => Err(format!("`{}` of {t} cannot be {dtype}", op.name())),
        None => Ok(()),
    }
}

fn first<'a>(shapes: &[&'a [Dim]]) -> Result<&'a [Dim], String> {
    shapes.first().copied().ok_or_else(|| "it has no operands".into())
}

fn kernel_shape(kernel: &Kernel, shapes: &[&[Dim]]) -> Result<Vec<Dim>, String> {
    let of = |op: &Op, n: usize| match shapes.get(..n) {
        Some(operands) => infer(op, operands, None),
        None => Err(format!("`{}` has too few operands", kernel.name())),
    };
    match kernel {
        Kernel::Gemm | Kernel::GemmAdd => of(&Op::Linear, 2),
        Kernel::HeadGemm => of(&Op::HeadLinear, 2),
        Kernel::GroupedGemm { top_k } => match shapes {
            [x, w, _] if w.len() == 3 && !x.is_empty() => {
                Ok(vec![x[0].clone(), Dim::from(*top_k), w[1].clone()])
            }
            _ => Err("`@grouped_gemm` takes x, w and a route".into()),
        },
        Kernel::Quantize { .. } | Kernel::RmsNormQuantize { .. } => Ok(first(shapes)?.to_vec()),
        Kernel::ScaledGemm { .. } | Kernel::ScaledGemmAdd { .. } => {
            match kernel.scaled(shapes.len()) {
                Some(at) => infer(&Op::Linear, &[shapes[0], shapes[at.w]], None),
                None => Err("`@scaled_gemm` takes x and w, each with its scales".into()),
            }
        }
        Kernel::ScaledGroupedGemm { top_k, .. } => {
            let at = kernel.scaled(shapes.len()).map(|at| (shapes[0], shapes[at.w]));
            match at {
                Some((x, w)) if w.len() == 3 && !x.is_empty() => {
                    Ok(vec![x[0].clone(), Dim::from(*top_k), w[1].clone()])
                }
                _ => Err("`@scaled_grouped_gemm` takes x and w, each with its scales, and a route"
                    .into()),
            }
        }
        Kernel::RoutePlan { n_experts } => {
            Ok(vec![Dim::product(first(shapes)?) + Dim::from(n_experts + 1)])
        }
        Kernel::Combine => of(&Op::Combine, 2),
        Kernel::SpreadExperts(spread) => {
            let matrices = shapes.get(spread.places().v).filter(|v| v.len() == 3);
            match (shapes, matrices) {
                ([x, ..], Some(v)) if !x.is_empty() => Ok(vec![x[0].clone(), v[1].clone()]),
                _ => Err("`@spread_experts` takes rows, routes and matrices".into()),
            }
        }
        Kernel::AddRmsNorm { .. } | Kernel::RmsNorm { .. } => Ok(first(shapes)?.to_vec()),
        Kernel::Pointwise(_) | Kernel::PointwiseQuantize { .. } => {
            shapes.iter().try_fold(vec![], |shape, operand| broadcast(&shape, operand))
        }
        Kernel::Reduce(f) => of(&Op::Reduce(*f), 1),
        Kernel::Softmax | Kernel::Rotary(_) | Kernel::GatherPast => Ok(first(shapes)?.to_vec()),
        Kernel::Gather => of(&Op::Lookup, 2),
        Kernel::Scatter => of(&Op::Append, 2),
        Kernel::AppendLatent { .. } => match shapes {
            [cache, latent, _, key] => {
                let row = infer(&Op::Concat { axis: 1 }, &[latent, key], None)?;
                infer(&Op::Append, &[cache, &row], None)
            }
            _ => Err("`@append_latent` takes a cache, a latent, a weight and a key".into()),
        },
        Kernel::Attention { parts, .. } => match (shapes.first(), shapes.last()) {
            (Some(q), Some(v)) if shapes.len() == 2 * parts + 1 && q.len() == 3 && v.len() == 3 => {
                Ok(vec![q[0].clone(), q[1].clone(), v[2].clone()])
            }
            _ => Err("`@attention` takes q parts, k parts and v".into()),
        },
        Kernel::TopK { k, groups } => of(&Op::TopK { k: *k, groups: *groups }, 1),
        Kernel::Router(r) => of(&Op::TopK { k: r.k, groups: r.groups }, 1),
        Kernel::Pick => of(&Op::Pick, 2),
        Kernel::Concat { axis } => infer(&Op::Concat { axis: *axis }, shapes, None),
    }
}

/// The element type that an inner node of a rule's right side has where the rule does not say:
/// scores and weights of attention are float32 (they are never stored), an index is i32, what is
/// quantised e4m3 and its scales float32, and all else has the type of the activations it is computed from.
pub(crate) fn default_dtype(term: &Term, operands: &[&TensorType]) -> DType {
    let of = |i: usize| operands.get(i).map_or(DType::F32, |t| t.dtype);
    match term {
        Term::Math(Op::Scores | Op::CausalSoftmax | Op::Constant(_)) => DType::F32,
        Term::Math(Op::BlockScale { .. }) => DType::F32,
        Term::Math(Op::Quantize { .. }) | Term::Kernel(Kernel::Quantize { .. }) => DType::F8e4m3,
        Term::Math(Op::Mix) => of(1),
        Term::Math(Op::TopK { .. })
        | Term::Kernel(Kernel::RoutePlan { .. } | Kernel::TopK { .. } | Kernel::Router(_)) => {
            DType::I32
        }
        Term::Math(Op::Binary(_)) => {
            // A constant does not promote.
            let stored = operands.iter().filter(|t| !t.shape.is_empty()).map(|t| t.dtype);
            stored.reduce(DType::promote).unwrap_or(DType::F32)
        }
        _ => of(0),
    }
}

/// Rows of a tensor whose last axis is taken off.
pub(crate) fn rows(ty: &TensorType) -> Dim {
    let outer = ty.shape.len().saturating_sub(1);
    Dim::product(&ty.shape[..outer])
}

/// Whether the outermost axis counts the tokens in the cache.
pub(crate) fn leads_with_past(shape: &[Dim]) -> bool {
    shape.first() == Some(&Sym::Past.into())
}
