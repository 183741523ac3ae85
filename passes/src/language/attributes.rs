//! Operations as names and attributes: what patterns match and dumps show.

use super::{Kernel, Node, Spread, Term};
use moec_ir::graph::shape::show;
use moec_ir::graph::{BinaryFn, Groups, ReduceFn, Rotary, UnaryFn};
use moec_ir::kernel::Scalar;
use moec_ir::{DType, Dim, Op, Real, ScaleFormat};
use std::fmt;

/// A value that is fixed when the model is compiled and stands inside an operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attr {
    /// An axis, a length, a count.
    Int(u64),
    /// A factor or an epsilon.
    Real(Real),
    /// Sizes of a tensor's axes.
    Shape(Vec<Dim>),
    /// An order of axes.
    Order(Vec<usize>),
    /// Rotary parameters.
    Rotary(Rotary),
    /// A group limit.
    Groups(Option<Groups>),
    /// A reduction.
    Reduce(ReduceFn),
    /// An element type.
    DType(DType),
    /// A format of scales.
    Scales(ScaleFormat),
    /// The body of a pointwise kernel.
    Code(Vec<Scalar>),
}

const UNARY: [(UnaryFn, &str); 12] = [
    (UnaryFn::Identity, "cast"),
    (UnaryFn::Neg, "neg"),
    (UnaryFn::Exp, "exp"),
    (UnaryFn::Log, "log"),
    (UnaryFn::Sigmoid, "sigmoid"),
    (UnaryFn::Silu, "silu"),
    (UnaryFn::Tanh, "tanh"),
    (UnaryFn::Sqrt, "sqrt"),
    (UnaryFn::Rsqrt, "rsqrt"),
    (UnaryFn::Relu, "relu"),
    (UnaryFn::Sign, "sign"),
    (UnaryFn::Abs, "abs"),
];

const BINARY: [(BinaryFn, &str); 6] = [
    (BinaryFn::Add, "add"),
    (BinaryFn::Sub, "sub"),
    (BinaryFn::Mul, "mul"),
    (BinaryFn::Div, "div"),
    (BinaryFn::Max, "maximum"),
    (BinaryFn::Min, "minimum"),
];

fn unary_name(f: UnaryFn) -> &'static str {
    UNARY.iter().find(|(g, _)| *g == f).map_or("unary", |(_, n)| n)
}

fn binary_name(f: BinaryFn) -> &'static str {
    BINARY.iter().find(|(g, _)| *g == f).map_or("binary", |(_, n)| n)
}

impl Term {
    /// The name in patterns and dumps; kernels begin with `@`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Math(op) => op_name(op),
            Self::InCache => "in_cache",
            Self::First => "first",
            Self::Third => "third",
            Self::Second { .. } => "second",
            Self::Kernel(k) => k.name(),
        }
    }

    /// The attributes, in the order in which patterns give them.
    pub(crate) fn attributes(&self) -> Vec<Attr> {
        match self {
            Self::Math(op) => op_attributes(op),
            Self::InCache | Self::First | Self::Third => vec![],
            Self::Second { per } => vec![Attr::Int(*per)],
            Self::Kernel(k) => k.attributes(),
        }
    }

    /// The term of a name and attributes, if there is one.
    pub(crate) fn from_parts(name: &str, attrs: &[Attr]) -> Option<Self> {
        match (name, attrs) {
            ("in_cache", _) => Some(Self::InCache),
            ("first", _) => Some(Self::First),
            ("third", _) => Some(Self::Third),
            ("second", [Attr::Int(per)]) => Some(Self::Second { per: *per }),
            _ if name.starts_with('@') => Kernel::from_parts(name, attrs).map(Self::Kernel),
            _ => op_from_parts(name, attrs).map(Self::Math),
        }
    }
}

fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Input(_) => "input",
        Op::Param(_) => "param",
        Op::Cache(_) => "cache",
        Op::Constant(_) => "constant",
        Op::Linear => "linear",
        Op::HeadLinear => "head_linear",
        Op::ExpertLinear => "expert_linear",
        Op::Combine => "combine",
        Op::Reshape(_) => "reshape",
        Op::Slice { .. } => "slice",
        Op::Concat { .. } => "concat",
        Op::Transpose(_) => "transpose",
        Op::Broadcast(_) => "broadcast",
        Op::Lookup => "lookup",
        Op::Unary(f) => unary_name(*f),
        Op::Binary(f) => binary_name(*f),
        Op::Reduce(_) => "reduce",
        Op::Softmax => "softmax",
        Op::RmsNorm { .. } => "rms_norm",
        Op::Quantize { .. } => "quantize",
        Op::BlockScale { .. } => "block_scale",
        Op::Dequantize { .. } => "dequantize",
        Op::Rotary(_) => "rotary",
        Op::Append => "append",
        Op::Attend { .. } => "attend",
        Op::Scores => "scores",
        Op::CausalSoftmax => "causal_softmax",
        Op::Mix => "mix",
        Op::TopK { .. } => "top_k",
        Op::Pick => "pick",
        Op::Dispatch => "dispatch",
        Op::Collect => "collect",
    }
}

fn op_attributes(op: &Op) -> Vec<Attr> {
    let int = |n: usize| Attr::Int(n as u64);
    match op {
        Op::Input(i) | Op::Param(i) | Op::Cache(i) => vec![int(*i)],
        Op::Constant(c) => vec![Attr::Real(*c)],
        Op::Reshape(s) | Op::Broadcast(s) => vec![Attr::Shape(s.clone())],
        Op::Slice { axis, start, len } => vec![int(*axis), Attr::Int(*start), Attr::Int(*len)],
        Op::Concat { axis } => vec![int(*axis)],
        Op::Transpose(order) => vec![Attr::Order(order.clone())],
        Op::Reduce(f) => vec![Attr::Reduce(*f)],
        Op::RmsNorm { eps } => vec![Attr::Real(*eps)],
        Op::Quantize { block, scales } | Op::BlockScale { block, scales } => {
            vec![Attr::Int(*block), Attr::Scales(*scales)]
        }
        Op::Dequantize { block: [rows, columns] } => vec![Attr::Int(*rows), Attr::Int(*columns)],
        Op::Rotary(r) => vec![Attr::Rotary(*r)],
        Op::Attend { scale } => vec![Attr::Real(*scale)],
        Op::TopK { k, groups } => vec![Attr::Int(*k), Attr::Groups(*groups)],
        _ => vec![],
    }
}

fn op_from_parts(name: &str, attrs: &[Attr]) -> Option<Op> {
    let op = match (name, attrs) {
        ("constant", [Attr::Real(c)]) => Op::Constant(*c),
        ("linear", []) => Op::Linear,
        ("head_linear", []) => Op::HeadLinear,
        ("expert_linear", []) => Op::ExpertLinear,
        ("combine", []) => Op::Combine,
        ("reshape", [Attr::Shape(s)]) => Op::Reshape(s.clone()),
        ("broadcast", [Attr::Shape(s)]) => Op::Broadcast(s.clone()),
        ("slice", [Attr::Int(a), Attr::Int(start), Attr::Int(len)]) => {
            Op::Slice { axis: *a as usize, start: *start, len: *len }
        }
        ("concat", [Attr::Int(a)]) => Op::Concat { axis: *a as usize },
        ("transpose", [Attr::Order(o)]) => Op::Transpose(o.clone()),
        ("lookup", []) => Op::Lookup,
        ("reduce", [Attr::Reduce(f)]) => Op::Reduce(*f),
        ("softmax", []) => Op::Softmax,
        ("rms_norm", [Attr::Real(eps)]) => Op::RmsNorm { eps: *eps },
        ("quantize", [Attr::Int(block), Attr::Scales(scales)]) => {
            Op::Quantize { block: *block, scales: *scales }
        }
        ("block_scale", [Attr::Int(block), Attr::Scales(scales)]) => {
            Op::BlockScale { block: *block, scales: *scales }
        }
        ("dequantize", [Attr::Int(rows), Attr::Int(columns)]) => {
            Op::Dequantize { block: [*rows, *columns] }
        }
        ("rotary", [Attr::Rotary(r)]) => Op::Rotary(*r),
        ("append", []) => Op::Append,
        ("attend", [Attr::Real(scale)]) => Op::Attend { scale: *scale },
        ("scores", []) => Op::Scores,
        ("causal_softmax", []) => Op::CausalSoftmax,
        ("mix", []) => Op::Mix,
        ("top_k", [Attr::Int(k), Attr::Groups(g)]) => Op::TopK { k: *k, groups: *g },
        ("pick", []) => Op::Pick,
        ("dispatch", []) => Op::Dispatch,
        ("collect", []) => Op::Collect,
        (_, []) => {
            let unary = UNARY.iter().find(|(_, n)| *n == name).map(|(f, _)| Op::Unary(*f));
            let binary = || BINARY.iter().find(|(_, n)| *n == name).map(|(f, _)| Op::Binary(*f));
            return unary.or_else(binary);
        }
        _ => return None,
    };
    Some(op)
}

impl Kernel {
    /// The name in patterns and dumps.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Gemm => "@gemm",
            Self::GemmAdd => "@gemm_add",
            Self::HeadGemm => "@head_gemm",
            Self::GroupedGemm { .. } => "@grouped_gemm",
            Self::Quantize { .. } => "@quantize",
            Self::RmsNormQuantize { .. } => "@rms_norm_quantize",
            Self::PointwiseQuantize { .. } => "@pointwise_quantize",
            Self::ScaledGemm { .. } => "@scaled_gemm",
            Self::ScaledGemmAdd { .. } => "@scaled_gemm_add",
            Self::ScaledGroupedGemm { .. } => "@scaled_grouped_gemm",
            Self::RoutePlan { .. } => "@route_plan",
            Self::Combine => "@combine",
            Self::SpreadExperts(_) => "@spread_experts",
            Self::RmsNorm { .. } => "@rms_norm",
            Self::AddRmsNorm { .. } => "@add_rms_norm",
            Self::Pointwise(_) => "@pointwise",
            Self::Reduce(_) => "@reduce",
            Self::Softmax => "@softmax",
            Self::Rotary(_) => "@rotary",
            Self::Gather => "@gather",
            Self::Scatter => "@scatter",
            Self::AppendLatent { rounded: None, .. } => "@append_latent",
            Self::AppendLatent { rounded: Some(_), .. } => "@append_latent_rounded",
            Self::GatherPast => "@gather_past",
            Self::Attention { cached: false, .. } => "@attention",
            Self::Attention { cached: true, .. } => "@attention_in_cache",
            Self::TopK { .. } => "@top_k",
            Self::Router(_) => "@router",
            Self::Pick => "@pick",
            Self::Concat { .. } => "@concat",
        }
    }

    fn attributes(&self) -> Vec<Attr> {
        match self {
            Self::GroupedGemm { top_k } => vec![Attr::Int(*top_k)],
            Self::Quantize { block, scales } => vec![Attr::Int(*block), Attr::Scales(*scales)],
            Self::RmsNormQuantize { eps, block, scales } => {
                vec![Attr::Real(*eps), Attr::Int(*block), Attr::Scales(*scales)]
            }
            Self::PointwiseQuantize { code, block, scales } => {
                vec![Attr::Code(code.clone()), Attr::Int(*block), Attr::Scales(*scales)]
            }
            Self::ScaledGemm { block: [rows, columns] }
            | Self::ScaledGemmAdd { block: [rows, columns] } => {
                vec![Attr::Int(*rows), Attr::Int(*columns)]
            }
            Self::ScaledGroupedGemm { top_k, block: [rows, columns] } => {
                vec![Attr::Int(*top_k), Attr::Int(*rows), Attr::Int(*columns)]
            }
            Self::RoutePlan { n_experts } => vec![Attr::Int(*n_experts)],
            Self::SpreadExperts(spread) => {
                let Spread { top_k, n_experts, code, .. } = spread.as_ref();
                vec![Attr::Code(code.clone()), Attr::Int(*top_k), Attr::Int(*n_experts)]
            }
            Self::RmsNorm { eps } => vec![Attr::Real(*eps)],
            Self::AddRmsNorm { eps, sum } => vec![Attr::Real(*eps), Attr::DType(*sum)],
            Self::Pointwise(code) => vec![Attr::Code(code.clone())],
            Self::Reduce(f) => vec![Attr::Reduce(*f)],
            Self::Rotary(r) => vec![Attr::Rotary(*r)],
            Self::AppendLatent { eps, rotary, rounded } => {
                let rounded = rounded.map(|(block, f)| [Attr::Int(block), Attr::Scales(f)]);
                let own = [Attr::Real(*eps), Attr::Rotary(*rotary)];
                own.into_iter().chain(rounded.into_iter().flatten()).collect()
            }
            Self::Attention { scale, .. } => vec![Attr::Real(*scale)],
            Self::TopK { k, groups } => vec![Attr::Int(*k), Attr::Groups(*groups)],
            Self::Router(r) => vec![Attr::Int(r.k), Attr::Groups(r.groups), Attr::Real(r.scale)],
            Self::Concat { axis } => vec![Attr::Int(*axis as u64)],
            _ => vec![],
        }
    }

    fn from_parts(name: &str, attrs: &[Attr]) -> Option<Self> {
        let attention = |scale: &Real, cached| Self::Attention { parts: 1, cached, scale: *scale };
        Some(match (name, attrs) {
            ("@gemm", []) => Self::Gemm,
            ("@gemm_add", []) => Self::GemmAdd,
            ("@head_gemm", []) => Self::HeadGemm,
            ("@grouped_gemm", [Attr::Int(k)]) => Self::GroupedGemm { top_k: *k },
            ("@quantize", [Attr::Int(block), Attr::Scales(scales)]) => {
                Self::Quantize { block: *block, scales: *scales }
            }
            ("@scaled_gemm", [Attr::Int(rows), Attr::Int(columns)]) => {
                Self::ScaledGemm { block: [*rows, *columns] }
            }
            ("@scaled_gemm_add", [Attr::Int(rows), Attr::Int(columns)]) => {
                Self::ScaledGemmAdd { block: [*rows, *columns] }
            }
            ("@scaled_grouped_gemm", [Attr::Int(k), Attr::Int(rows), Attr::Int(columns)]) => {
                Self::ScaledGroupedGemm { top_k: *k, block: [*rows, *columns] }
            }
            ("@route_plan", [Attr::Int(n)]) => Self::RoutePlan { n_experts: *n },
            ("@combine", []) => Self::Combine,
            ("@rms_norm", [Attr::Real(eps)]) => Self::RmsNorm { eps: *eps },
            ("@reduce", [Attr::Reduce(f)]) => Self::Reduce(*f),
            ("@softmax", []) => Self::Softmax,
            ("@rotary", [Attr::Rotary(r)]) => Self::Rotary(*r),
            ("@gather", []) => Self::Gather,
            ("@scatter", []) => Self::Scatter,
            ("@append_latent", [Attr::Real(eps), Attr::Rotary(rotary)]) => {
                Self::AppendLatent { eps: *eps, rotary: *rotary, rounded: None }
            }
            (
                "@append_latent_rounded",
                [Attr::Real(eps), Attr::Rotary(rotary), Attr::Int(block), Attr::Scales(scales)],
            ) => {
                let rounded = Some((*block, *scales));
                Self::AppendLatent { eps: *eps, rotary: *rotary, rounded }
            }
            ("@gather_past", []) => Self::GatherPast,
            ("@attention", [Attr::Real(s)]) => attention(s, false),
            ("@attention_in_cache", [Attr::Real(s)]) => attention(s, true),
            ("@top_k", [Attr::Int(k), Attr::Groups(g)]) => Self::TopK { k: *k, groups: *g },
            ("@pick", []) => Self::Pick,
            _ => return None,
        })
    }
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Real(r) => write!(f, "{r}"),
            Self::Shape(s) => f.write_str(&show(s)),
            Self::Order(o) => write!(f, "{o:?}"),
            Self::Rotary(r) => write!(f, "dim {} theta {}", r.dim, r.theta),
            Self::Groups(None) => f.write_str("no groups"),
            Self::Groups(Some(g)) => write!(f, "{} of {} groups", g.keep, g.count),
            Self::Reduce(r) => f.write_str(&format!("{r:?}").to_lowercase()),
            Self::DType(d) => write!(f, "{d}"),
            Self::Scales(format) => f.write_str(&format!("{format:?}").to_lowercase()),
            Self::Code(code) => f.write_str(&code_text(code)),
        }
    }
}

/// A pointwise function as a formula of its inputs `a`, `b`, ..: `mul(silu(a), b)`.
pub(crate) fn code_text(code: &[Scalar]) -> String {
    let mut steps: Vec<String> = Vec::with_capacity(code.len());
    let input = |i: usize| match u8::try_from(i) {
        Ok(i) if i < 26 => char::from(b'a' + i).to_string(),
        _ => format!("i{i}"),
    };
    for step in code {
        let text = match *step {
            Scalar::Input(i) => input(i),
            Scalar::Constant(c) => c.to_string(),
            Scalar::Unary(g, x) => format!("{}({})", unary_name(g), steps[x]),
            Scalar::Binary(g, x, y) => format!("{}({}, {})", binary_name(g), steps[x], steps[y]),
        };
        steps.push(text);
    }
    steps.pop().unwrap_or_default()
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let attrs: Vec<String> = self.attributes().iter().map(Attr::to_string).collect();
        if attrs.is_empty() { Ok(()) } else { write!(f, "[{}]", attrs.join(", ")) }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let children: Vec<String> = self.children.iter().map(|c| format!("c{c}")).collect();
        write!(f, "{}({})", self.term, children.join(", "))
    }
}
