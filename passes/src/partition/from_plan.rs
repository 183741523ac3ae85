//! From the plan of one device to the cell of one rank.
//!
//! Before: a plan with the predicted cost of each launch. After: the layer with routed experts that
//! runs most often, its launches divided by what they depend on: those that the router and the
//! experts' inputs need come before the exchange, those after the experts' products are the
//! experts' own, the others need no exchange. Not seen: layers without experts, which are the same
//! however experts are spread.

use super::cell::Cell;
use super::work::{Task, Work};
use crate::cost::{Attention, Estimate, Machine, Product, Stream};
use crate::explain::{FunctionReport, KernelLine};
use crate::optimize::Optimized;
use crate::verify_plan::writes;
use moec_ir::graph::Groups;
use moec_ir::kernel::View;
use moec_ir::plan::{Buffer, Launch, PlanFunction};
use moec_ir::{DType, KernelSpec, Plan, Ranks, Sizes, Transfer};
use std::collections::{BTreeMap, BTreeSet};

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
pub fn cell(optimized: &Optimized, spread: &Spread) -> Option<Cell> {
    let plan = &optimized.plan;
    let functions = plan.functions.iter().zip(&optimized.explanation.functions);
    let routed = functions.filter(|(f, report)| report.calls > 0 && !experts(plan, f).is_empty());
    let (function, report) = routed.rev().max_by_key(|(_, report)| report.calls)?;
    Layer { plan, function, report }.cell(spread)
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

/// A product of experts: operands, weights, results, experts of a token and elements that share a
/// scale.
struct Routed<'a> {
    a: &'a View,
    w: &'a View,
    c: &'a View,
    top_k: u64,
    block: Option<u64>,
}

fn product_of_experts(spec: &KernelSpec) -> Option<Routed<'_>> {
    match spec {
        KernelSpec::GroupedGemm { a, w, c, top_k } => {
            Some(Routed { a, w, c, top_k: *top_k, block: None })
        }
        KernelSpec::ScaledGroupedGemm { a, w, c, top_k, block, .. } => {
            Some(Routed { a, w, c, top_k: *top_k, block: Some(block[1]) })
        }
        _ => None,
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
        let size = |view: &View, axis: usize| view.shape.get(axis).map(|d| d.eval(self.sizes()));
        let (hidden, ff) = (size(first.w, 2)? as f64, size(last.w, 2)? as f64);
        let bytes = |dtype: DType| dtype.bytes() as f64;
        let scales =
            first.block.map_or(0.0, |block| (hidden / block as f64).ceil() * bytes(DType::F32));
        let top_k = u32::try_from(first.top_k).ok()?;
        let (before, beside) = self.work(&experts);
        Some(Cell {
            phase: self.plan.phase,
            ranks: spread.ranks,
            tokens: self.sizes().tokens as f64,
            hidden,
            ff,
            experts: size(first.w, 0)?,
            top_k,
            most_nodes: most_nodes(spread.ranks, top_k, self.groups()),
            out_bytes: hidden * bytes(first.a.dtype) + scales,
            back_bytes: hidden * bytes(last.c.dtype),
            element: bytes(first.a.dtype),
            skew: spread.skew,
            layers: u32::try_from(self.report.calls).ok()?,
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

    /// What comes before the exchange, and what needs none.
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
        let mut own: BTreeSet<usize> = BTreeSet::new();
        for at in 0..needs.len() {
            if experts.contains(&at) || needs[at].iter().any(|need| own.contains(need)) {
                own.insert(at);
            }
        }
        let task = |at: usize| self.task(&self.function.launches[at], &self.report.launches[at]);
        let planned = |at: &usize| {
            matches!(spec(self.plan, &self.function.launches[*at]), KernelSpec::RoutePlan { .. })
        };
        // The exchange sorts tokens itself.
        let first: Work = before.iter().filter(|at| !planned(at)).map(|at| task(*at)).collect();
        let others = (0..needs.len()).filter(|at| !before.contains(at) && !own.contains(at));
        let sums = own.iter().filter_map(|at| self.sum(*at));
        (first, others.map(task).chain(sums).collect())
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
                for (operand, _) in operands().filter(|(_, writes)| !**writes) {
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
        let KernelSpec::Combine { adds, out, .. } = spec(self.plan, &self.function.launches[at])
        else {
            return None;
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
