//! Routers that choose what a simulation asks for.
//!
//! No code is skipped and no choice overwritten: a router chooses other experts because its weights
//! are others. A reference evaluation in float64 gives the rows that come to each router; the
//! weights then change by the smallest amount for which every token of the simulation scores high
//! for the experts it is to choose, and low for all others. The selection bias, where there is one,
//! becomes zero. That is done layer by layer, since what one router chooses changes the rows of the
//! next, and a last evaluation checks that every token does choose so.

use super::choose::best;
use super::solve::Solver;
use crate::weights::fill;
use crate::{Checkpoint, Reference, Result, fail};
use moec_ir::graph::Groups;
use moec_ir::{Diagnostic, Function, Graph, NodeId, Op, Ranks};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use safetensors::Dtype;
use std::collections::BTreeMap;

/// What routers choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// What they do by themselves.
    Model,
    /// All experts equally often, as nearly as the number of tokens allows.
    Balanced,
    /// As many experts of one rank as a token can; the seed and the layer say which rank.
    OneRank,
    /// Balanced, but for experts that no token chooses: the last of each rank, or, where ranks
    /// have one each, the last of all.
    EmptyExpert,
    /// As [`Routing::OneRank`]; the memory for rows is as small as it may be, and full.
    ExactCapacity,
    /// How often experts are chosen follows a log-normal distribution whose logarithm has a
    /// standard deviation of 1.
    LogNormal,
}

impl Routing {
    /// All.
    pub const ALL: [Self; 6] = [
        Self::Model,
        Self::Balanced,
        Self::OneRank,
        Self::EmptyExpert,
        Self::ExactCapacity,
        Self::LogNormal,
    ];

    /// `one-rank`
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Balanced => "balanced",
            Self::OneRank => "one-rank",
            Self::EmptyExpert => "empty-expert",
            Self::ExactCapacity => "exact-capacity",
            Self::LogNormal => "log-normal",
        }
    }

    /// What makes an expert wanted when it has been chosen `load` times by `tokens` tokens.
    fn score(self, load: &[u64], (tokens, k): (u64, usize), rates: &[f64]) -> Vec<Option<f64>> {
        let due = |(rate, load): (&f64, &u64)| {
            (*rate > 0.0).then(|| rate * (tokens + 1) as f64 * k as f64 - *load as f64)
        };
        match self {
            // Rates are an order of preference.
            Self::OneRank | Self::ExactCapacity => rates.iter().copied().map(Some).collect(),
            _ => rates.iter().zip(load).map(due).collect(),
        }
    }

    /// How often each expert is to be chosen, as a part of all choices.
    fn rates(self, experts: u64, ranks: Ranks, seed: u64) -> Vec<f64> {
        let each = (experts / u64::from(ranks.count())).max(1);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || {
            // Box and Muller 1958.
            let mut uniform = || (f64::from(random.next_u32()) + 0.5) / 2f64.powi(32);
            let (radius, turn) = (uniform(), uniform());
            (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
        };
        let first = seed % u64::from(ranks.count()) * each;
        let idle = |e: u64| if each > 1 { e % each == each - 1 } else { e == experts - 1 };
        let rate = |e: u64| match self {
            Self::Model | Self::Balanced => 1.0,
            Self::EmptyExpert => f64::from(u8::from(!idle(e))),
            Self::LogNormal => normal().exp(),
            Self::OneRank | Self::ExactCapacity => -(((e + experts - first) % experts) as f64),
        };
        let rates: Vec<f64> = (0..experts).map(rate).collect();
        match self {
            Self::OneRank | Self::ExactCapacity => rates,
            _ => {
                let sum: f64 = rates.iter().sum();
                rates.iter().map(|rate| rate / sum).collect()
            }
        }
    }
}

/// How often the experts of a layer were chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loads {
    /// The function that the router stands in.
    pub function: String,
    /// The layer.
    pub layer: Option<u64>,
    /// By expert.
    pub counts: Vec<u64>,
}

/// A router of a function.
struct Router<'g> {
    function: &'g Function,
    /// The linear map from rows to scores, and its parameter.
    linear: NodeId,
    weight: usize,
    /// Vectors that are added to scores.
    biases: Vec<usize>,
    choice: NodeId,
    k: usize,
    groups: Option<Groups>,
    experts: u64,
}

/// A router in a layer.
type Call = (usize, Option<u64>);

/// Changes a checkpoint so that routers choose as asked for the tokens of some sequences. Returns
/// it with what they choose.
///
/// # Errors
/// E1303 where a router cannot be found or does not come to choose so; what evaluating the model
/// returns.
pub fn steer(
    graph: &Graph,
    checkpoint: &Checkpoint,
    sequences: &[Vec<u32>],
    (routing, ranks, seed): (Routing, Ranks, u64),
) -> Result<(Checkpoint, Vec<Loads>)> {
    let routers = routers(graph);
    let mut calls: Vec<Call> = Vec::new();
    for step in graph.entry("main").iter().flat_map(|e| &e.steps) {
        let function = &graph.functions[step.function];
        let found = routers.iter().position(|r| std::ptr::eq(r.function, function));
        calls.extend(found.map(|router| (router, step.layer)));
    }
    if calls.is_empty() {
        let message = format!("`{}` chooses no experts by `top_k` of a linear map", graph.name);
        return fail(Diagnostic::error("E1303", message).help("use `--routing model`"));
    }
    let mut steered = checkpoint.clone();
    let mut wanted = BTreeMap::new();
    if routing != Routing::Model {
        for &call in &calls {
            let router = &routers[call.0];
            let rows = observe(graph, &steered, sequences, &routers)?.rows;
            let x = rows.get(&call).cloned().unwrap_or_default();
            wanted.insert(call, turn(router, call.1, &x, &mut steered, (routing, ranks, seed))?);
        }
    }
    let chosen = observe(graph, &steered, sequences, &routers)?.chosen;
    let mut loads = Vec::new();
    for call in calls {
        let router = &routers[call.0];
        let chosen = chosen.get(&call).cloned().unwrap_or_default();
        let mut counts = vec![0; router.experts as usize];
        chosen.iter().flatten().for_each(|e| counts[*e] += 1);
        let name = &router.function.name;
        if let Some(wanted) = wanted.get(&call) {
            let sorted = |choices: &[Vec<usize>]| -> Vec<Vec<usize>> {
                choices.iter().map(|c| sorted(c)).collect()
            };
            if sorted(wanted) != sorted(&chosen) {
                let tokens = wanted.len();
                let message = format!(
                    "the router of `{name}` cannot be made to choose as wanted for {tokens} tokens"
                );
                return fail(Diagnostic::error("E1303", message).help("use fewer tokens"));
            }
        }
        loads.push(Loads { function: name.clone(), layer: call.1, counts });
    }
    Ok((steered, loads))
}

fn sorted(choice: &[usize]) -> Vec<usize> {
    let mut choice = choice.to_vec();
    choice.sort_unstable();
    choice
}

/// Score of the best expert that a token is to choose, as the linear map gives it; each further
/// one has a little less, and all others have the opposite. Far enough apart that rounding to
/// bfloat16 on the way cannot change the choice, near enough that no sigmoid is flat.
const SCORE: f64 = 3.0;
const STEP: f64 = 0.125;

/// Changes the weights of a router in a layer; returns what each row is to choose.
fn turn(
    router: &Router<'_>,
    layer: Option<u64>,
    x: &[f64],
    checkpoint: &mut Checkpoint,
    (routing, ranks, seed): (Routing, Ranks, u64),
) -> Result<Vec<Vec<usize>>> {
    let param = &router.function.params[router.weight];
    let shape: Vec<u64> = param.ty.shape.iter().map(|d| d.constant().unwrap_or(0)).collect();
    let (experts, width) = (router.experts as usize, shape[1] as usize);
    let rates = routing.rates(router.experts, ranks, seed.wrapping_add(layer.unwrap_or(0)));
    let mut load = vec![0; experts];
    let mut wanted = Vec::new();
    for token in 0..x.len() / width.max(1) {
        let scores = routing.score(&load, (token as u64, router.k), &rates);
        let Some(choice) = best(&scores, router.k, router.groups) else {
            let message = format!(
                "no token of `{}` can choose {} experts as `{}` asks",
                router.function.name,
                router.k,
                routing.name()
            );
            return fail(Diagnostic::error("E1303", message).help("use another routing"));
        };
        choice.iter().for_each(|e| load[*e] += 1);
        wanted.push(choice);
    }
    let name = fill(&param.tensor, layer, 0);
    let old = checkpoint.get(&name, &shape, param.ty.dtype)?;
    let mut w = crate::weights::to_f64(old.bytes, old.dtype);
    let solver = Solver::new(x, width);
    for (e, w) in w.chunks_mut(width.max(1)).enumerate() {
        let rows = x.chunks(width.max(1)).zip(&wanted);
        let lacking: Vec<f64> = rows
            .map(|(x, choice)| {
                let at = choice.iter().position(|c| *c == e);
                let score = at.map_or(-SCORE, |at| SCORE - STEP * at as f64);
                score - x.iter().zip(&*w).map(|(x, w)| x * w).sum::<f64>()
            })
            .collect();
        w.iter_mut().zip(solver.shortest(&lacking)).for_each(|(w, d)| *w += d);
    }
    let bytes = w.iter().flat_map(|w| (*w as f32).to_le_bytes()).collect();
    checkpoint.put(&name, Dtype::F32, &shape, bytes)?;
    for &bias in &router.biases {
        let param = &router.function.params[bias];
        let shape: Vec<u64> = param.ty.shape.iter().map(|d| d.constant().unwrap_or(0)).collect();
        let zeros = vec![0; 4 * shape.iter().product::<u64>() as usize];
        checkpoint.put(&fill(&param.tensor, layer, 0), Dtype::F32, &shape, zeros)?;
    }
    Ok(wanted)
}

/// What an evaluation shows of routers.
#[derive(Default)]
struct Seen {
    /// Rows that come to each, row-major.
    rows: BTreeMap<Call, Vec<f64>>,
    /// What each row chooses.
    chosen: BTreeMap<Call, Vec<Vec<usize>>>,
}

fn observe(
    graph: &Graph,
    checkpoint: &Checkpoint,
    sequences: &[Vec<u32>],
    routers: &[Router<'_>],
) -> Result<Seen> {
    let mut reference = Reference::new(graph, checkpoint)?;
    let mut seen = Seen::default();
    for tokens in sequences.iter().filter(|tokens| !tokens.is_empty()) {
        let mut chosen: BTreeMap<Call, Vec<Vec<usize>>> = BTreeMap::new();
        reference.observe(tokens, &mut |now| {
            let function = |r: &Router<'_>| std::ptr::eq(r.function, now.function);
            let Some(at) = routers.iter().position(function) else { return };
            let (router, call) = (&routers[at], (at, now.layer));
            if std::ptr::eq(now.node, router.function.node(router.linear))
                && let Some(x) = now.operands.first()
            {
                seen.rows.entry(call).or_default().extend(&x.data);
            }
            let inputs = now.node.inputs.iter().zip(now.operands);
            for (_, operand) in inputs.filter(|(input, _)| **input == router.choice) {
                let rows = operand.data.chunks(router.k.max(1));
                let rows = rows.map(|row| row.iter().map(|e| *e as usize).collect());
                chosen.insert(call, rows.collect());
            }
        })?;
        for (call, rows) in chosen {
            seen.chosen.entry(call).or_default().extend(rows);
        }
    }
    Ok(seen)
}

/// The routers of a model: a choice of experts by scores that are a function of a linear map by a
/// parameter, elementwise and with vectors added.
fn routers(graph: &Graph) -> Vec<Router<'_>> {
    graph.functions.iter().filter_map(router).collect()
}

fn router(function: &Function) -> Option<Router<'_>> {
    let choice = function.nodes.iter().position(|n| matches!(n.op, Op::TopK { .. }))?;
    let Op::TopK { k, groups } = function.nodes[choice].op else { return None };
    let (mut linear, mut biases) = (None, Vec::new());
    let mut open = vec![*function.nodes[choice].inputs.first()?];
    while let Some(id) = open.pop() {
        let node = function.node(id);
        match node.op {
            Op::Linear => {
                linear = Some((id, param_behind(function, *node.inputs.get(1)?)?));
            }
            Op::Param(param) => biases.push(param),
            _ => open.extend(&node.inputs),
        }
    }
    let (linear, weight) = linear?;
    let experts = function.params[weight].ty.shape.first()?.constant()?;
    let (choice, k) = (NodeId(choice), k as usize);
    Some(Router { function, linear, weight, biases, choice, k, groups, experts })
}

/// The parameter that a value is a form of.
fn param_behind(function: &Function, id: NodeId) -> Option<usize> {
    match function.node(id).op {
        Op::Param(param) => Some(param),
        _ => param_behind(function, *function.node(id).inputs.first()?),
    }
}
