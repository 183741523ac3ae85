//! From the plan of one device to the cell of one rank.
//!
//! Before: a plan with the predicted cost of each launch. After: the layer with routed experts that
//! runs most often, its launches divided by what they depend on: those that the router and the
//! experts' inputs need come before the exchange, those after the experts' products are the
//! experts' own, the others need no exchange. Not seen: layers without experts, which are the same
//! however experts are spread.

use super::cell::{Cell, CellError};
use super::solve::{Solution, solve};
use super::work::{Task, Work};
use crate::cost::{Attention, Estimate, Machine, Product, Stream};
use crate::explain::{Explanation, FunctionReport, KernelLine};
use crate::verify_plan::writes;
use moec_ir::graph::Groups;
use moec_ir::kernel::View;
use moec_ir::kernel::exchange::Split;
use moec_ir::plan::{Buffer, Launch, PlanFunction};
use moec_ir::{DType, KernelSpec, Plan, Ranks, Sizes, Transfer};
use std::collections::{BTreeMap, BTreeSet};

/// Layers that are scheduled, at most: more in a row go on as these.
const MOST_LAYERS: u32 = 128;

/// What a model's file, or its user, says of the spread of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The GPUs that share the experts.
    pub ranks: Ranks,
    /// Micro-batches into which a step may be divided, at most.
    pub micro_batches: u32,
    /// How tokens are moved.
    pub transfer: Transfer,
    /// Load of the busiest rank over the mean.
    pub skew: f64,
    /// SMs that communicate, where that is not to be decided.
    pub fixed: Option<u32>,
}

/// The cell of a rank that holds its part of the experts and runs the plan's step; `None` where no
/// layer that runs has routed experts.
pub fn cell(plan: &Plan, explanation: &Explanation, spread: &Spread) -> Option<Cell> {
    let functions = plan.functions.iter().zip(&explanation.functions);
    let routed = functions.filter(|(f, report)| report.calls > 0 && !experts(plan, f).is_empty());
    let (function, report) = routed.rev().max_by_key(|(_, report)| report.calls)?;
    Layer { plan, function, report }.cell(spread)
}

/// A plan's cell, and how SMs are divided for it.
#[derive(Clone, Debug)]
pub struct Partition {
    /// What is to be done.
    pub cell: Cell,
    /// The alternatives.
    pub solution: Solution,
}

/// Divides the SMs for a plan of several ranks and has its kernels do so; CTAs that would never
/// have a tile are left out. Kernels in which no SM
/// would communicate keep what the cost model gave them: their messages are sent by CTAs of their
/// own.
pub(crate) fn partition(
    plan: &mut Plan,
    explanation: &Explanation,
    spread: &Spread,
) -> Result<Option<Partition>, CellError> {
    let Some(cell) = cell(plan, explanation, spread) else { return Ok(None) };
    let solution = solve(&cell, &plan.target)?;
    let best = solution.best();
    let best = best.comm_sms.filter(|comm| *comm > 0).map(|comm| (comm, best.compute_sms));
    for kernel in &mut plan.kernels {
        if let KernelSpec::SpreadExperts(experts) = &mut kernel.spec {
            let (comm, compute) = best.unwrap_or((experts.split.comm, experts.split.compute));
            let tiles = u32::try_from(experts.most_tiles(&plan.workload)).unwrap_or(u32::MAX);
            experts.split = Split { comm, compute: compute.min(tiles.max(1)) };
        }
    }
    Ok(Some(Partition { cell, solution }))
}

/// Launches of products of experts.
fn experts(plan: &Plan, function: &PlanFunction) -> Vec<usize> {
    let launches = function.launches.iter().enumerate();
    let of_experts =
        launches.filter(|(_, launch)| product_of_experts(spec(plan, launch)).is_some());
    of_experts.map(|(at, _)| at).collect()
}

fn spec<'a>(plan: &'a Plan, launch: &Launch) -> &'a KernelSpec {
    &plan.kernels[launch.kernel].spec
}

/// What a launch says of the experts whose products it computes.
#[derive(Clone, Copy)]
struct Routed {
    experts: u64,
    top_k: u64,
    /// Elements of a row of the first product's operand, and bytes of it with its scales.
    hidden: u64,
    out_bytes: u64,
    /// Elements of a row of the second product's operand.
    ff: u64,
    /// Bytes of a row of the second product's result.
    back_bytes: u64,
    element: u64,
}

/// Products of experts, of one rank or of several; of two launches each is told as if it were both.
fn product_of_experts(spec: &KernelSpec) -> Option<Routed> {
    let grouped = |w: &View, [a, c]: [DType; 2], top_k: u64, block: Option<u64>| {
        let [experts, rows, depth] = [0, 1, 2].map(|axis| w.shape.get(axis)?.constant());
        let (experts, rows, depth) = (experts?, rows?, depth?);
        let scales = block.map_or(0, |block| depth.div_ceil(block.max(1)) * DType::F32.bytes());
        Some(Routed {
            experts,
            top_k,
            hidden: depth,
            out_bytes: depth * a.bytes() + scales,
            ff: depth,
            back_bytes: rows * c.bytes(),
            element: a.bytes(),
        })
    };
    match spec {
        KernelSpec::GroupedGemm { a, w, c, top_k } => grouped(w, [a.dtype, c.dtype], *top_k, None),
        KernelSpec::ScaledGroupedGemm { a, w, c, top_k, block, .. } => {
            grouped(w, [a.dtype, c.dtype], *top_k, Some(block[1]))
        }
        KernelSpec::SpreadExperts(spread) => {
            let exchange = &spread.exchange;
            let bytes = |(elements, dtype): (u64, DType)| elements * dtype.bytes();
            Some(Routed {
                experts: exchange.experts,
                top_k: exchange.top_k,
                hidden: exchange.row.0,
                out_bytes: bytes(exchange.row) + bytes((exchange.scales, DType::F32)),
                ff: exchange.middle.0,
                back_bytes: bytes(exchange.result),
                element: exchange.row.1.bytes(),
            })
        }
        _ => None,
    }
}

/// Operands of a launch that it needs before it begins: experts are added up with others' results
/// at their end.
fn needed(spec: &KernelSpec) -> usize {
    match spec {
        KernelSpec::SpreadExperts(e) => {
            let scales = [&e.x_scale, &e.first.scale, &e.second.scale];
            5 + scales.into_iter().flatten().count()
        }
        _ => usize::MAX,
    }
}

/// A layer with routed experts.
struct Layer<'a> {
    plan: &'a Plan,
    function: &'a PlanFunction,
    report: &'a FunctionReport,
}

impl Layer<'_> {
    fn cell(&self, spread: &Spread) -> Option<Cell> {
        let experts = experts(self.plan, self.function);
        let of = |at: usize| product_of_experts(spec(self.plan, &self.function.launches[at]));
        let (first, last) = (of(*experts.first()?)?, of(*experts.last()?)?);
        let top_k = u32::try_from(first.top_k).ok()?;
        let (before, beside) = self.work(&experts);
        Some(Cell {
            phase: self.plan.phase,
            ranks: spread.ranks,
            tokens: self.sizes().tokens as f64,
            hidden: first.hidden as f64,
            ff: last.ff as f64,
            experts: first.experts,
            top_k,
            most_nodes: most_nodes(spread.ranks, top_k, self.groups()),
            out_bytes: first.out_bytes as f64,
            back_bytes: last.back_bytes as f64,
            element: first.element as f64,
            skew: spread.skew,
            layers: u32::try_from(self.report.calls).ok()?.min(MOST_LAYERS),
            before,
            beside,
            micro_batches: spread.micro_batches,
            transfer: spread.transfer,
            fixed: spread.fixed,
        })
    }

    fn sizes(&self) -> &Sizes {
        &self.plan.workload
    }

    /// The group limit of the router.
    fn groups(&self) -> Option<Groups> {
        self.function.launches.iter().find_map(|launch| match spec(self.plan, launch) {
            KernelSpec::Router { groups, .. } | KernelSpec::TopK { groups, .. } => *groups,
            _ => None,
        })
    }

    /// What comes before the exchange of this layer or after that of the last, and what needs none.
    fn work(&self, experts: &[usize]) -> (Work, Work) {
        let needs = self.needs();
        let mut before = BTreeSet::new();
        let mut open: Vec<usize> =
            experts.first().iter().flat_map(|at| &needs[**at]).copied().collect();
        while let Some(at) = open.pop() {
            if before.insert(at) {
                open.extend(&needs[at]);
            }
        }
        // The experts' own launches, up to the one that adds up; those behind it open the next
        // layer.
        let mut own = BTreeSet::new();
        for (at, needed) in needs.iter().enumerate() {
            let ends = |at: &usize| {
                let spec = spec(self.plan, &self.function.launches[*at]);
                matches!(spec, KernelSpec::Combine { .. } | KernelSpec::SpreadExperts(_))
            };
            let behind = needed.iter().any(|need| {
                own.contains(need) && ends(need) || before.contains(need) && *need > experts[0]
            });
            if behind {
                before.insert(at);
            } else if experts.contains(&at) || needed.iter().any(|need| own.contains(need)) {
                own.insert(at);
            }
        }
        let task = |at: usize| self.task(&self.function.launches[at], &self.report.launches[at]);
        // The exchange sorts tokens itself.
        let sorts = |at: &usize| {
            let spec = spec(self.plan, &self.function.launches[*at]);
            matches!(spec, KernelSpec::RoutePlan { .. } | KernelSpec::ExchangeRoutes { .. })
        };
        let all = || (0..needs.len()).filter(|at| !sorts(at));
        let others = all().filter(|at| !before.contains(at) && !own.contains(at)).map(task);
        let sums = own.iter().filter_map(|at| self.sum(*at));
        let first = all().filter(|at| before.contains(at)).map(task);
        (first.collect(), others.chain(sums).collect())
    }

    /// For each launch, those whose results it reads.
    fn needs(&self) -> Vec<BTreeSet<usize>> {
        // Of each address the launch that wrote there last, and when.
        let mut written: BTreeMap<Buffer, BTreeMap<String, usize>> = BTreeMap::new();
        let launches = self.function.launches.iter().enumerate();
        launches
            .map(|(at, launch)| {
                let roles = writes(spec(self.plan, launch));
                let operands = || launch.operands.iter().zip(&roles);
                let mut needs = BTreeSet::new();
                let read = operands().take(needed(spec(self.plan, launch)));
                for (operand, _) in read.filter(|(_, writes)| !**writes) {
                    let Some(places) = written.get(&operand.buffer) else { continue };
                    // A whole that was written in pieces, or a piece of a whole.
                    let exact = places.get(&operand.offset.to_string()).copied();
                    needs.extend(places.values().filter(|by| exact.is_none_or(|e| **by >= e)));
                }
                for (operand, _) in operands().filter(|(_, writes)| **writes) {
                    let places = written.entry(operand.buffer).or_default();
                    places.insert(operand.offset.to_string(), at);
                }
                needs
            })
            .collect()
    }

    /// What is left of a combine where results come back added up: adding the others.
    fn sum(&self, at: usize) -> Option<Task> {
        let (adds, out) = match spec(self.plan, &self.function.launches[at]) {
            KernelSpec::Combine { adds, out, .. } => (adds, out),
            KernelSpec::SpreadExperts(experts) => (&experts.adds, &experts.out),
            _ => return None,
        };
        let elements = self.elements(out);
        let bytes = elements * out.dtype.bytes() as f64 * (adds.len() + 2) as f64;
        let flops = elements * (adds.len() + 1) as f64;
        Some(Task::Stream(Stream { bytes, flops, launches: 1.0 }))
    }

    fn elements(&self, view: &View) -> f64 {
        view.shape.iter().map(|d| d.eval(self.sizes()) as f64).product()
    }

    fn task(&self, launch: &Launch, line: &KernelLine) -> Task {
        let stream = || Task::Stream(self.stream(&line.cost));
        match spec(self.plan, launch) {
            // Where tensor cores may not sum, CUDA cores do.
            _ if line.cost.tensor == 0.0 => stream(),
            KernelSpec::Gemm { a, w, add, c } | KernelSpec::ScaledGemm { a, w, add, c, .. } => {
                Task::Product(self.product([a, w, c], add.as_ref()))
            }
            KernelSpec::Attention { q, k, v, out, values_in_keys, .. } => {
                Task::Attention(self.attention(q, k, v, out, *values_in_keys))
            }
            _ => stream(),
        }
    }

    fn product(&self, [a, w, c]: [&View; 3], add: Option<&View>) -> Product {
        let size = |view: &View, axis: usize| view.shape[axis].eval(self.sizes()) as f64;
        let of = [size(a, 1), size(w, 1), size(w, 2)];
        let (element, result) = (a.dtype.bytes() as f64, c.dtype.bytes() as f64);
        let product = Product::dense(size(w, 0), of, element, result);
        let added = add.map_or(0.0, |add| self.elements(add) * add.dtype.bytes() as f64);
        Product { bytes: product.bytes + added, ..product }
    }

    fn attention(
        &self,
        q: &[View],
        k: &[View],
        v: &View,
        out: &View,
        values_in_keys: bool,
    ) -> Attention {
        let Sizes { tokens, past, sequences } = *self.sizes();
        let sequences = sequences.max(1) as f64;
        let (tokens, past) = (tokens as f64 / sequences, past as f64 / sequences);
        let head = |view: &View| view.shape[1].eval(self.sizes()) as f64;
        let width = |view: &View| view.shape[2].eval(self.sizes()) as f64;
        let element = q[0].dtype.bytes() as f64;
        // Rows of a cache are bounded by its size, not by the step's.
        let kept = |view: &View| past * sequences * head(view) * width(view);
        let values = if values_in_keys { 0.0 } else { kept(v) };
        let read = q.iter().map(|view| self.elements(view)).sum::<f64>()
            + k.iter().map(kept).sum::<f64>()
            + values;
        let heads = head(&q[0]);
        let written = tokens * sequences * heads * width(v) * out.dtype.bytes() as f64;
        Attention {
            sequences,
            tokens,
            visible: (past - (tokens - 1.0) / 2.0).max(1.0),
            causal: true,
            heads,
            key_heads: k.iter().chain([v]).map(head).fold(1.0, f64::max),
            depth: q.iter().map(width).sum(),
            value: width(v),
            element,
            bytes: read * element + written,
        }
    }

    /// The stream that costs as much: its time is linear in what it moves and computes.
    fn stream(&self, cost: &Estimate) -> Stream {
        let machine = Machine::new(self.plan.target.clone());
        let start = machine.target.launch_s + machine.fill();
        Stream {
            bytes: cost.hbm / machine.hbm(1.0),
            flops: cost.cuda / machine.cuda(1.0),
            launches: cost.exposed / start,
        }
    }
}

/// Nodes that a token may go to: those of the groups that its experts come from, one for each
/// expert at most.
fn most_nodes(ranks: Ranks, top_k: u32, groups: Option<Groups>) -> u32 {
    let nodes = ranks.nodes();
    let limit = groups.map_or(nodes, |groups| {
        let each = u64::from(nodes).div_ceil(groups.count.max(1));
        u32::try_from(groups.keep * each).unwrap_or(nodes)
    });
    nodes.min(limit).min(top_k).max(1)
}
