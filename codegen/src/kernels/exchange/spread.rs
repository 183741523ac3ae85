//! A layer's routed experts on one rank of a group: which CTA plays which part.

use super::activate::Activate;
use super::check;
use super::cores::{self, OnCores};
use super::finish::{Columns, Finish};
use super::gateway::Gateway;
use super::give_back::GiveBack;
use super::hand_on::HandOn;
use super::member::{Member, Tasks};
use super::progress::Progress;
use super::send::Send;
use super::sorted::{Plan, Rows, Which};
use super::tensor;
use crate::builder::Builder;
use crate::kernels::factors::{Factors, Places};
use crate::kernels::hopper::{self, Load, Sorted};
use crate::kernels::{Design, Step, launch};
use crate::tensor::Tensor;
use moec_ir::kernel::exchange::{ExpertMatrices, Region};
use moec_ir::kernel::{SpreadExperts, View};
use moec_ir::plan::Geometry;
use moec_ir::{DType, Diagnostic, Dim, Sizes, Sym, Target};

/// With more rows per expert than this, tensor cores multiply where they can: as for products of
/// experts that are not spread.
const ONE_BY_ONE: u64 = 1;
/// Threads of a CTA at least: communicating warps keep many rows under way.
const THREADS: u32 = 128;

struct Spread {
    spec: SpreadExperts,
    operands: Operands,
    products: Products,
    sizes: Sizes,
}

/// How both products are computed.
enum Products {
    Tensor(Box<[Sorted; 2]>),
    Cores(Box<[OnCores; 2]>),
}

/// Which operand is which.
#[derive(Clone, Copy)]
struct Operands {
    x_scale: usize,
    chosen: usize,
    weight: usize,
    first: [usize; 2],
    second: [usize; 2],
    adds: usize,
    out: usize,
    group: usize,
    regions: usize,
}

impl Operands {
    fn new(spec: &SpreadExperts) -> Self {
        let scaled = usize::from(spec.x_scale.is_some());
        let matrix = |at: usize, m: &ExpertMatrices| [at, at + usize::from(m.scale.is_some())];
        let first = matrix(3 + scaled, &spec.first);
        let second = matrix(first[1] + 1, &spec.second);
        let adds = second[1] + 1;
        let out = adds + spec.adds.len();
        Self {
            x_scale: scaled,
            chosen: scaled + 1,
            weight: scaled + 2,
            first,
            second,
            adds,
            out,
            group: out + 1,
            regions: out + 2,
        }
    }

    fn region(&self, region: Region) -> usize {
        let place = Region::ALL.iter().position(|&other| other == region);
        self.regions + place.unwrap_or_default()
    }
}

/// Columns of a tile from which on registers of two products in one kernel spill: for DeepSeek-V3's
/// experts, 192 columns spill 124 bytes, 160 columns 16, and 128 none (ptxas 13.5).
const MOST_COLUMNS: u64 = 128;

/// Operands: as of [`moec_ir::kernel::KernelSpec::SpreadExperts`].
pub(in crate::kernels) fn design(
    spec: &SpreadExperts,
    step: Step,
    target: &Target,
) -> Result<Box<dyn Design>, Diagnostic> {
    check("spread_experts", &spec.exchange)?;
    let split = spec.split;
    if split.comm == 0 || split.compute == 0 {
        let message = format!(
            "a spread_experts kernel has {} CTAs that communicate and {} that compute",
            split.comm, split.compute
        );
        return Err(Diagnostic::error("E0902", message).help("each part needs one at least"));
    }
    let operands = Operands::new(spec);
    let views = views(spec);
    let factors = [factors(spec, &operands, Which::First), factors(spec, &operands, Which::Second)];
    // Rows that this rank's experts get if all get as many.
    let pairs = step.sizes.tokens * spec.exchange.top_k;
    let rows = pairs.div_ceil(spec.exchange.experts_each().min(pairs).max(1));
    // Behind the barriers of one product those of the other: at most 2 * 8 of 8 bytes.
    let target = Target {
        sms: split.compute,
        shared_per_cta: target.shared_per_cta - 256,
        ..target.clone()
    };
    let on_tensor_cores = || {
        let columns = MOST_COLUMNS;
        let load = |consumers| Load { pairs, rows, target: &target, consumers, columns };
        let first = Sorted::new(&factors[0], &views[0], load(None))?;
        let second = Sorted::new(&factors[1], &views[1], load(Some(first.consumers())))?;
        let mut products = [first, second];
        Sorted::share(&mut products, [&views[0], &views[1]], &target);
        Some(Products::Tensor(Box::new(products)))
    };
    let as_they_are = rows > ONE_BY_ONE && !factors.iter().any(hopper::widens);
    let products = as_they_are.then(on_tensor_cores).flatten().unwrap_or_else(|| {
        let product = |i: usize| OnCores::new(&factors[i], &views[i], rows, step.sizes);
        Products::Cores(Box::new([product(0), product(1)]))
    });
    Ok(Box::new(Spread { spec: spec.clone(), operands, products, sizes: step.sizes }))
}

/// A part of each row of a region, as a matrix with one row for each.
fn part(rows: Dim, bytes: u64, columns: u64, dtype: DType) -> View {
    View::new(dtype, [rows, 1.into(), columns.into()], [bytes / dtype.bytes(), 0, 1])
}

/// Results of both products.
fn views(spec: &SpreadExperts) -> [View; 2] {
    let bytes = spec.exchange.product_row().bytes;
    [spec.exchange.hidden, spec.exchange.result]
        .map(|(columns, dtype)| part(spec.exchange.most_rows(), bytes, columns, dtype))
}

/// Factors of a product.
fn factors(spec: &SpreadExperts, operands: &Operands, which: Which) -> Factors {
    let exchange = &spec.exchange;
    let ranks = u64::from(exchange.ranks.count());
    let (rows, bytes, row, scales, matrices, [w, w_scale], region) = match which {
        Which::First => (
            Dim::from(Sym::Tokens) * ranks,
            exchange.row_bytes(),
            exchange.row,
            exchange.scales,
            &spec.first,
            operands.first,
            Region::Rows,
        ),
        Which::Second => (
            exchange.most_rows(),
            exchange.product_row().bytes,
            exchange.middle,
            exchange.middle_scales,
            &spec.second,
            operands.second,
            Region::Products,
        ),
    };
    let a = part(rows.clone(), bytes, row.0, row.1);
    let at = operands.region(region);
    let places = Places { a: at, a_scale: at, w, w_scale };
    let factors = match &matrices.scale {
        None => Factors::plain(&a, &matrices.w),
        Some(scale) => {
            let a_scale = part(rows, bytes, scales, DType::F32);
            let w = [&matrices.w, scale];
            Factors::scaled((&a, Some(&a_scale)), w, spec.block, spec.promote_every)
        }
    };
    Factors { places, ..factors }
}

impl Design for Spread {
    fn geometry(&self) -> Geometry {
        let ctas = u64::from(self.spec.split.comm + self.spec.split.compute);
        let geometry = |threads| launch(&[(ctas.into(), 1)], threads);
        match &self.products {
            Products::Tensor(products) => Geometry {
                shared_bytes: products.iter().map(Sorted::shared_bytes).max().unwrap_or(0) as u32,
                tensor_maps: products.iter().map(|p| p.weights().clone()).collect(),
                ..geometry(products[0].threads())
            },
            Products::Cores(products) => {
                geometry(products.iter().map(OnCores::threads).fold(THREADS, u32::max))
            }
        }
    }

    fn operands(&self) -> usize {
        self.operands.regions + Region::ALL.len()
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let (exchange, operands) = (&self.spec.exchange, &self.operands);
        let places = [operands.group, operands.region(Region::Routes)];
        let member = Member::new(b, exchange, places, 0);
        let plan = Plan::new(b, operands.region(Region::Plan), exchange);
        let each = exchange.top_k.min(exchange.experts_each()) as i32;
        b.trap_if(member.most.lt(b.size(&Sym::Tokens.into())));
        b.trap_if((member.most * (member.ranks() * each)).lt(plan.total));
        let progress = Progress {
            b,
            products: b.operand(operands.region(Region::Products)),
            row: exchange.product_row(),
            epoch: member.epoch,
        };
        b.if_or(
            b.cta(0).lt(b.i32(self.spec.split.comm)),
            || self.communicate(b, &member, plan, progress),
            || self.compute(b, &member, plan, progress),
        );
    }
}

impl Spread {
    fn communicate<'k>(
        &self,
        b: &'k Builder<'k>,
        member: &Member<'k, '_>,
        plan: Plan<'k>,
        progress: Progress<'k>,
    ) {
        let (spec, operands) = (&self.spec, &self.operands);
        let region = |region| b.operand(operands.region(region));
        let input = |i: usize, view: &View| Tensor::operand(b, i, view).read_only();
        let warps = b.threads() / 32;
        let first = b.cta(0) * warps.cast_signed() + b.warp();
        let tasks = Tasks { first, step: u64::from(spec.split.comm * warps) };
        let (rows, relay) = (region(Region::Rows), region(Region::Relay));
        let (results, partials) = (region(Region::Results), region(Region::Partials));
        let relay_results = region(Region::RelayResults);
        let chosen = input(operands.chosen, &spec.chosen);
        let x_scale = spec.x_scale.as_ref().map(|view| input(operands.x_scale, view));
        let x = input(0, &spec.x);
        Send { member, spec, x, x_scale, chosen: chosen.clone(), rows, relay }.run(b, tasks);
        if !member.is_one_node() {
            HandOn { member, relay, rows }.run(b, tasks);
        }
        GiveBack { member, plan, progress, results, relay: relay_results }.run(b, tasks);
        let columns = Columns::new(spec);
        if !member.is_one_node() {
            Gateway { member, columns, relay: relay_results, partials }.run(b, tasks);
        }
        let adds = (operands.adds..).zip(&spec.adds).map(|(i, view)| input(i, view)).collect();
        Finish {
            member,
            columns,
            chosen,
            weight: input(operands.weight, &spec.weight),
            adds,
            out: Tensor::operand(b, operands.out, &spec.out),
            results,
            partials,
            experts: spec.exchange.experts,
        }
        .run(b, tasks);
    }

    fn compute<'k>(
        &self,
        b: &'k Builder<'k>,
        member: &Member<'k, '_>,
        plan: Plan<'k>,
        progress: Progress<'k>,
    ) {
        let (spec, sent) = (&self.spec, b.operand(self.operands.region(Region::Rows)));
        let rows = |which, block| {
            let matrices = if which == Which::First { &spec.first } else { &spec.second };
            let scaled = matrices.scale.is_some();
            Rows { b, member, plan, progress, rows: sent, which, scaled, block }
        };
        let activate = Activate::new(spec, self.sizes);
        match &self.products {
            Products::Tensor(products) => {
                let block = |p: &Sorted| {
                    let [rows, across, warps] = p.blocks();
                    [rows, across * warps]
                };
                let first = rows(Which::First, block(&products[0]));
                let second = rows(Which::Second, block(&products[1]));
                tensor::compute(b, products, &activate, spec.split, [&first, &second]);
            }
            Products::Cores(products) => {
                let first = rows(Which::First, products[0].block());
                let second = rows(Which::Second, products[1].block());
                cores::compute(b, products, &activate, spec.split, [&first, &second]);
            }
        }
    }
}
