//! Which form of multi-head latent attention costs least, where.
//!
//! Both forms are equal ([`rules`](mod@crate::rules) know it): expanded, keys and values of every
//! head are computed from the latent; absorbed, queries are brought into the latent's space
//! (DeepSeek-V2 2.1.2). The choice is the cost model's, for each step; this is the table of it.

use crate::build::Built;
use crate::cost::CostModel;
use crate::explain::time;
use crate::extract::Problem;
use crate::language::{EGraph, Kernel, Node};
use crate::optimize::{Options, cost_model};
use crate::rules::{self as tables, Rule};
use crate::saturate::saturate;
use egg::Id;
use moec_ir::graph::{Cache, NodeId, Param, shape};
use moec_ir::{
    DType, Diagnostic, Dim, Function, Graph, Node as GraphNode, Op, Phase, Real, Sizes, Sym,
    Target, TensorType,
};
use std::collections::BTreeMap;
use std::fmt;

/// Cache lengths of the table.
const LENGTHS: [u64; 5] = [1024, 4096, 16_384, 65_536, 131_072];
/// Ranks that share the heads of a layer.
const RANKS: [u64; 4] = [1, 2, 4, 8];

/// The sizes of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mla {
    /// Query heads.
    pub heads: u64,
    /// Elements of a query or key that are not rotated.
    pub nope: u64,
    /// Elements that are.
    pub rope: u64,
    /// Elements of a value.
    pub value: u64,
    /// Elements of the latent.
    pub rank: u64,
}

/// A row of the table: a batch, its heads and the length of its caches.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakEven {
    /// The phase whose batch it is.
    pub phase: Phase,
    /// Sequences.
    pub sequences: u64,
    /// Heads that the device computes.
    pub heads: u64,
    /// Tokens in the cache of each sequence, those of the step included.
    pub length: u64,
    /// The fewest query tokens per sequence with which the expanded form costs less; `None` where
    /// it never does.
    pub expanded_from: Option<u64>,
    /// Seconds of the absorbed and the expanded form with one query token per sequence.
    pub one: [f64; 2],
    /// The same with as many query tokens as the cache is long.
    pub all: [f64; 2],
    /// Bytes of the expanded keys and values.
    pub expanded_bytes: f64,
}

/// The table of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct MlaTable {
    /// The layer's sizes.
    pub mla: Mla,
    /// The target's name.
    pub target: String,
    /// The rows.
    pub rows: Vec<BreakEven>,
}

/// Works the table out.
///
/// # Errors
/// E0809 where the model has no latent attention, or a rule that either form needs is switched
/// off.
pub fn mla_table(
    graph: &Graph,
    target: &Target,
    options: &Options,
) -> Result<MlaTable, Vec<Diagnostic>> {
    let Some(mla) = graph.functions.iter().find_map(Mla::of) else {
        let mistake = Diagnostic::error("E0809", "the model has no multi-head latent attention");
        let help = "`--mla` compares forms of attention to a latent that a cache holds";
        return Err(vec![mistake.help(help)]);
    };
    let all = tables::all();
    let rules = crate::optimize::enabled(&all, options)?;
    let mut rows = vec![];
    // With one head both forms read the same keys.
    let divides = |n: &u64| mla.heads.is_multiple_of(*n) && mla.heads > *n;
    for heads in RANKS.into_iter().filter(divides).map(|n| mla.heads / n) {
        let forms = Forms::new(Mla { heads, ..mla }, &rules, options);
        for phase in Phase::ALL {
            let cost = cost_model(graph, target, phase, options);
            for length in LENGTHS {
                rows.push(forms.row(phase, &cost, length).ok_or_else(one_form)?);
            }
        }
    }
    rows.sort_by_key(|row| (row.phase != Phase::Prefill, row.heads, row.length));
    Ok(MlaTable { mla, target: target.name.clone(), rows })
}

fn one_form() -> Vec<Diagnostic> {
    let mistake = Diagnostic::error("E0809", "one of the forms of latent attention has no plan");
    vec![mistake.help("switch the rules of absorption and of lowering on again")]
}

impl Mla {
    /// The sizes of a function's attention, if its keys come from a latent in a cache.
    fn of(function: &Function) -> Option<Self> {
        let of = |id: NodeId| function.node(id);
        let attend = function.nodes.iter().find(|n| matches!(n.op, Op::Attend { .. }))?;
        let [q, k, v] = attend.inputs.as_slice() else { return None };
        let sizes = |id: NodeId| -> Vec<u64> {
            of(id).ty.shape[1..].iter().filter_map(Dim::constant).collect()
        };
        let (queries, values) = (sizes(*q), sizes(*v));
        let ([heads, depth], [_, value]) = (queries.as_slice(), values.as_slice()) else {
            return None;
        };
        // A latent's row is one vector, and the key's last piece is the same for all heads.
        let Op::Concat { axis: 2 } = of(*k).op else { return None };
        let rope = sizes(*of(*k).inputs.last()?).last().copied()?;
        let row = function.caches.iter().find_map(|c| match c.ty.shape.as_slice() {
            [row] => row.constant(),
            _ => None,
        })?;
        let (nope, rank) = (depth.checked_sub(rope)?, row.checked_sub(rope)?);
        Some(Self { heads: *heads, nope, rope, value: *value, rank })
    }

    /// Attention alone, from queries and what is remembered of each token: `[T, H, value]`.
    fn function(&self) -> Function {
        let (t, s, h) = (Dim::from(Sym::Tokens), Dim::from(Sym::Past), Dim::from(self.heads));
        let Self { nope, rope, value, rank, heads } = *self;
        let bf16 = |shape: &[Dim]| TensorType::new(DType::Bf16, shape.iter().cloned());
        let row = Dim::from(rank + rope);
        // Queries are made in two pieces, as keys are.
        let q = |size: u64| bf16(&[t.clone(), h.clone(), size.into()]);
        let (q_n, q_r) = (q(nope), q(rope));
        let up = bf16(&[(heads * (nope + value)).into(), rank.into()]);
        let cache =
            Cache { name: "latent".into(), ty: bf16(std::slice::from_ref(&row)), packed: None };
        let param = Param { name: "kv_b".into(), tensor: "kv_b".into(), ty: up };
        let mut f = Function {
            name: "attention".into(),
            inputs: vec![q_n, q_r, bf16(&[t.clone(), row])],
            params: vec![param],
            caches: vec![cache],
            nodes: vec![],
            outputs: vec![],
        };
        let slice = |axis, start, len| Op::Slice { axis, start, len };
        let q = [Op::Input(0), Op::Input(1)].map(|op| add(&mut f, op, &[]));
        let q = add(&mut f, Op::Concat { axis: 2 }, &q);
        let x = add(&mut f, Op::Input(2), &[]);
        let cache = add(&mut f, Op::Cache(0), &[]);
        let past = add(&mut f, Op::Append, &[cache, x]);
        let latent = add(&mut f, slice(1, 0, rank), &[past]);
        let key = add(&mut f, slice(1, rank, rope), &[past]);
        let up = add(&mut f, Op::Param(0), &[]);
        let kv = add(&mut f, Op::Linear, &[latent, up]);
        let kv = add(&mut f, Op::Reshape(vec![s.clone(), h.clone(), (nope + value).into()]), &[kv]);
        let (k, v) = (slice(2, 0, nope), slice(2, nope, value));
        let (k, v) = (add(&mut f, k, &[kv]), add(&mut f, v, &[kv]));
        let key = add(&mut f, Op::Reshape(vec![s.clone(), 1.into(), rope.into()]), &[key]);
        let key = add(&mut f, Op::Broadcast(vec![s, h, rope.into()]), &[key]);
        let k = add(&mut f, Op::Concat { axis: 2 }, &[k, key]);
        let scale = Real(((nope + rope) as f64).powf(-0.5));
        let out = add(&mut f, Op::Attend { scale }, &[q, k, v]);
        f.outputs = vec![out];
        f
    }
}

/// Appends a node of bf16.
fn add(f: &mut Function, op: Op, inputs: &[NodeId]) -> NodeId {
    let own = match op {
        Op::Input(i) => Some(&f.inputs[i]),
        Op::Param(i) => Some(&f.params[i].ty),
        Op::Cache(i) => Some(&f.caches[i].ty),
        _ => None,
    };
    let shapes: Vec<&[Dim]> = inputs.iter().map(|i| f.nodes[i.0].ty.shape.as_slice()).collect();
    let shape = shape::infer(&op, &shapes, own.map(|ty| ty.shape.as_slice()));
    let shape = shape.unwrap_or_else(|fault| panic!("bug in moec: latent attention: {fault}"));
    let ty = TensorType::new(DType::Bf16, shape);
    f.nodes.push(GraphNode { op, inputs: inputs.to_vec(), ty, name: None, spans: vec![] });
    NodeId(f.nodes.len() - 1)
}

/// Both forms of a layer's attention, in one e-graph.
struct Forms {
    mla: Mla,
    egraph: EGraph,
    outputs: Vec<Id>,
}

impl Forms {
    fn new(mla: Mla, rules: &[&Rule], options: &Options) -> Self {
        let function = mla.function();
        let mut built = Built::new(&function);
        saturate(&mut built.egraph, rules, options.limits);
        let outputs = built.outputs(&function);
        Self { mla, egraph: built.egraph, outputs }
    }

    /// Whether a kernel attends with keys of each head.
    fn is_expanded(&self, node: &Node) -> Option<bool> {
        let Some(Kernel::Attention { parts, .. }) = node.as_kernel() else { return None };
        let heads = |id: &Id| self.egraph[*id].data.ty.shape[1].constant();
        Some(node.children[*parts..].iter().any(|id| heads(id) != Some(1)))
    }

    /// Seconds of the absorbed and the expanded form.
    fn seconds(&self, cost: &CostModel, sizes: Sizes) -> Option<[f64; 2]> {
        let cost = CostModel { sizes, ..cost.clone() };
        let names = BTreeMap::new();
        let problem = Problem::new(&self.egraph, &names, &self.outputs, &cost);
        let other = |expanded: bool| {
            problem.seconds_without(&|_, node| self.is_expanded(node) == Some(!expanded))
        };
        Some([other(false)?, other(true)?])
    }

    fn row(&self, phase: Phase, cost: &CostModel, length: u64) -> Option<BreakEven> {
        let sequences = cost.sizes.sequences;
        let at = |tokens: u64| {
            let past = sequences * length;
            self.seconds(cost, Sizes { tokens: sequences * tokens, past, sequences })
        };
        let (one, all) = (at(1)?, at(length)?);
        let pays = |[absorbed, expanded]: [f64; 2]| expanded < absorbed;
        let (mut below, mut from) = (0, length);
        while pays(all) && from - below > 1 {
            let middle = below + (from - below) / 2;
            if pays(at(middle)?) { from = middle } else { below = middle }
        }
        let Mla { nope, value, heads, .. } = self.mla;
        let elements = sequences * length * heads * (nope + value);
        Some(BreakEven {
            phase,
            sequences,
            heads,
            length,
            expanded_from: pays(all).then_some(from),
            one,
            all,
            expanded_bytes: (elements * DType::Bf16.bytes()) as f64,
        })
    }
}

impl fmt::Display for MlaTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mla { heads, nope, rope, value, rank } = self.mla;
        writeln!(
            f,
            "latent attention on {}: {heads} heads of {nope} + {rope}, values of {value}, a latent \
             of {rank}\n\nfrom how many query tokens per sequence the expanded form costs less, \
             and what both cost",
            self.target
        )?;
        writeln!(
            f,
            "{:>8}{:>11}{:>7}{:>9}{:>10}  {:>20}  {:>20}{:>12}",
            "", "", "", "", "expanded", "one query token", "a whole prompt", "expanded"
        )?;
        writeln!(
            f,
            "{:>8}{:>11}{:>7}{:>9}{:>10}  {:>10}{:>10}  {:>10}{:>10}{:>12}",
            "phase",
            "sequences",
            "heads",
            "cache",
            "from",
            "absorbed",
            "expanded",
            "absorbed",
            "expanded",
            "memory"
        )?;
        for row in &self.rows {
            let BreakEven { phase, sequences, heads, length, one, all, .. } = row;
            let from = row.expanded_from.map_or("never".into(), |n| n.to_string());
            let [a, b, c, d] = [one[0], one[1], all[0], all[1]].map(time);
            let memory = format!("{:.1} GB", row.expanded_bytes / 1e9);
            writeln!(
                f,
                "{:>8}{sequences:>11}{heads:>7}{length:>9}{from:>10}  {a:>10}{b:>10}  \
                 {c:>10}{d:>10}{memory:>12}",
                phase.name()
            )?;
        }
        Ok(())
    }
}
