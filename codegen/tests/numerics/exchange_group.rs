//! An exchange of routed experts on emulated ranks, and the same on one GPU with the kernels for
//! one: what is compared.

use super::machine::{Array, POISON, Random, encode, run};
use crate::cases::{Spread, dense, gated, scale_row, t};
use half::bf16;
use moec_codegen::{KernelCode, Options, Step, generate_kernel};
use moec_emulator::{
    Arg, DeviceConfig, Group, GroupConfig, LaunchConfig, Module, QueuedLaunch, Race, Schedule,
};
use moec_ir::DType::{Bf16, F32, I32};
use moec_ir::kernel::exchange::{ExpertMatrices, Region};
use moec_ir::kernel::{KernelSpec, SpreadExperts, View};
use moec_ir::{Dim, Phase, ScaleFormat, Sizes, Target};

/// A spec, and how many tokens each rank has.
#[derive(Clone)]
pub(crate) struct Problem {
    pub(crate) name: &'static str,
    pub(crate) spread: Spread,
    /// Tokens of a rank that the code is designed for.
    pub(crate) designed: u64,
    /// Tokens of each rank.
    pub(crate) tokens: Vec<u64>,
    pub(crate) load: Load,
}

/// Which experts tokens choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Load {
    Even,
    /// Only experts of the last rank, as far as there are enough.
    OneRank,
    /// Never the first expert.
    NotTheFirst,
    /// With weights that differ log-normally, by sigma.
    LogNormal(f64),
}

impl Problem {
    /// The most tokens of any rank, and one more: a place is left free.
    fn most(&self) -> u64 {
        self.tokens.iter().copied().max().unwrap_or(0).max(1) + u64::from(self.tokens.len() > 2)
    }

    fn step(&self, tokens: u64) -> Step {
        let phase = if tokens <= 4 { Phase::Decode } else { Phase::Prefill };
        Step { phase, sizes: Sizes { tokens, past: tokens, sequences: 1 } }
    }
}

/// Weights of all experts.
pub(crate) struct Weights {
    first: [Array; 2],
    second: [Array; 2],
}

/// Tokens of all ranks, one rank after the other.
pub(crate) struct Tokens {
    x: Array,
    x_scale: Array,
    chosen: Array,
    weight: Array,
    add: Array,
}

fn at(tokens: u64) -> Sizes {
    Sizes { tokens, past: tokens, sequences: 1 }
}

/// Random numbers; scales near 1.
fn scales(view: Option<&View>, tokens: u64, random: &mut Random) -> Array {
    let Some(view) = view else { return Array::integers(&[0]) };
    let mut array = Array::poisoned(view, &at(tokens));
    array.each(|array, index| array.set(index, 1.0 + random.number() / 2.0));
    array
}

impl Weights {
    pub(crate) fn new(problem: &Problem, random: &mut Random) -> Self {
        let [columns, inner] = problem.spread.sizes;
        let mut matrix = |n, k| {
            let m = problem.spread.matrices(problem.spread.experts, n, k);
            let mut w = Array::random(&m.w, &at(1), random);
            // Results neither vanish nor grow.
            let size = (3.0 / k as f64).sqrt();
            w.clone().each(|before, index| w.set(index, before.get(index) * size));
            [w, scales(m.scale.as_ref(), 1, random)]
        };
        Self { first: matrix(2 * inner, columns), second: matrix(columns, inner) }
    }
}

impl Tokens {
    pub(crate) fn new(problem: &Problem, random: &mut Random) -> Self {
        let (spec, total) = (problem.spread.spec(), problem.tokens.iter().sum::<u64>().max(1));
        let x = Array::random(&spec.x, &at(total), random);
        // Gaps between rows are numbers too.
        let padded = spec.x_scale.as_ref().map(|view| dense(F32, &[None, Some(view.strides[0])]));
        let x_scale = scales(padded.as_ref(), total, random);
        let mut weight = Array::random(&spec.weight, &at(total), random);
        weight.clone().each(|before, index| weight.set(index, before.get(index).abs()));
        let add = Array::random(&spec.adds[0], &at(total), random);
        let mut chosen = Array::poisoned(&spec.chosen, &at(total));
        let popular: Vec<f64> = (0..problem.spread.experts)
            .map(|_| match problem.load {
                Load::LogNormal(sigma) => {
                    // Irwin and Hall's approximation of a normal number.
                    let normal: f64 = (0..12).map(|_| random.number() / 2.0).sum();
                    (sigma * normal).exp()
                }
                _ => 1.0,
            })
            .collect();
        for token in 0..total {
            for (which, expert) in problem.choose(&popular, random).into_iter().enumerate() {
                chosen.set(&[token, which as u64], expert as f64);
            }
        }
        Self { x, x_scale, chosen, weight, add }
    }
}

impl Problem {
    /// Different experts for a token.
    fn choose(&self, popular: &[f64], random: &mut Random) -> Vec<u64> {
        let each = self.spread.experts / u64::from(self.spread.ranks[0]);
        let mut left: Vec<u64> = match self.load {
            Load::OneRank => {
                (self.spread.experts - each.max(self.spread.top_k)..self.spread.experts).collect()
            }
            Load::NotTheFirst => (1..self.spread.experts).collect(),
            _ => (0..self.spread.experts).collect(),
        };
        (0..self.spread.top_k)
            .map(|_| {
                let all: f64 = left.iter().map(|&e| popular[e as usize]).sum();
                let mut drawn = (random.number() + 1.0) / 2.0 * all;
                let place = left.iter().position(|&e| {
                    drawn -= popular[e as usize];
                    drawn < 0.0
                });
                left.remove(place.unwrap_or(left.len() - 1))
            })
            .collect()
    }

    /// What every rank should have: the kernels for one GPU, over the tokens and experts of all.
    pub(crate) fn expected(&self, weights: &Weights, tokens: &Tokens) -> Vec<Vec<u16>> {
        let total: u64 = self.tokens.iter().sum();
        if total == 0 {
            return self.tokens.iter().map(|_| vec![]).collect();
        }
        let (sizes, step) = (at(total), self.step(self.designed * u64::from(self.spread.ranks[0])));
        let [columns, inner] = self.spread.sizes;
        let (k, spec) = (self.spread.top_k, self.spread.spec());
        let first = self.spread.matrices(self.spread.experts, 2 * inner, columns);
        let second = self.spread.matrices(self.spread.experts, columns, inner);
        let chosen = spec.chosen.clone();
        let mut route = Array::integers(&vec![-1; (self.spread.experts + 1 + total * k) as usize]);
        let plan = KernelSpec::RoutePlan { chosen, n_experts: self.spread.experts };
        run("plan", &plan, step, &sizes, &mut [&mut tokens.chosen.clone(), &mut route]);
        let product = |a: View, a_scale: Option<View>, m: &ExpertMatrices, n: u64| {
            let c = dense(Bf16, &[None, Some(k), Some(n)]);
            match (a_scale, &m.scale) {
                (Some(a_scale), Some(w_scale)) => KernelSpec::ScaledGroupedGemm {
                    a,
                    a_scale: Some(a_scale),
                    w: m.w.clone(),
                    w_scale: w_scale.clone(),
                    c,
                    top_k: k,
                    block: [128, 128],
                    promote_every: self.spread.promote_every,
                },
                _ => KernelSpec::GroupedGemm { a, w: m.w.clone(), c, top_k: k },
            }
        };
        let shared = |view: &View| {
            let (rows, columns) = (view.shape[0].clone(), view.shape[1].clone());
            View::new(view.dtype, [rows, 1.into(), columns], [view.strides[0], 0, 1])
        };
        let up = product(shared(&spec.x), spec.x_scale.as_ref().map(shared), &first, 2 * inner);
        let mut hidden = Array::poisoned(&dense(Bf16, &[None, Some(k), Some(2 * inner)]), &sizes);
        self.multiply(
            "up",
            &up,
            total,
            [&tokens.x, &tokens.x_scale],
            &weights.first,
            &route,
            &mut hidden,
        );
        let halves = [0, inner].map(|first| View {
            align: 1 << (2 * first).trailing_zeros().min(4),
            ..View::new(Bf16, [t() * k, Dim::from(inner)], [2 * inner, 1])
        });
        let middle_view = View::dense(spec.exchange.middle.1, &[t() * k, inner.into()]).unwrap();
        let blocks = inner.div_ceil(128);
        let row = scale_row(blocks);
        let scale_view = View::new(F32, [t() * k, blocks.into()], [row, 1]);
        let mut middle = Array::poisoned(&middle_view, &sizes);
        let mut middle_scale = Array::poisoned(&scale_view, &sizes);
        let mut upper = hidden.clone();
        upper.bytes.drain(..(2 * inner) as usize);
        if self.spread.fp8 {
            let f = KernelSpec::PointwiseQuantize {
                inputs: halves.to_vec(),
                out: None,
                q: middle_view,
                scale: scale_view,
                code: gated(),
                block: 128,
                format: ScaleFormat::F32,
            };
            let operands = &mut [&mut hidden, &mut upper, &mut middle, &mut middle_scale];
            run("swiglu", &f, step, &sizes, operands);
        } else {
            let f =
                KernelSpec::Pointwise { inputs: halves.to_vec(), out: middle_view, code: gated() };
            run("swiglu", &f, step, &sizes, &mut [&mut hidden, &mut upper, &mut middle]);
        }
        let a = dense(spec.exchange.middle.1, &[None, Some(k), Some(inner)]);
        let a_scale = View::new(F32, [t(), k.into(), blocks.into()], [k * row, row, 1]);
        let down = product(a, self.spread.fp8.then_some(a_scale), &second, columns);
        let mut results = Array::poisoned(&dense(Bf16, &[None, Some(k), Some(columns)]), &sizes);
        self.multiply(
            "down",
            &down,
            total,
            [&middle, &middle_scale],
            &weights.second,
            &route,
            &mut results,
        );
        self.combine(tokens, &results)
    }

    #[expect(clippy::too_many_arguments, reason = "operands of a product")]
    fn multiply(
        &self,
        name: &str,
        spec: &KernelSpec,
        total: u64,
        [a, a_scale]: [&Array; 2],
        [w, w_scale]: &[Array; 2],
        route: &Array,
        c: &mut Array,
    ) {
        let step = self.step(self.designed * u64::from(self.spread.ranks[0]));
        let mut operands = vec![a.clone().in_buffer()];
        operands.extend(self.spread.fp8.then(|| a_scale.clone()));
        operands.push(w.clone());
        operands.extend(self.spread.fp8.then(|| w_scale.clone()));
        operands.push(route.clone());
        let mut operands: Vec<&mut Array> = operands.iter_mut().chain([c]).collect();
        run(name, spec, step, &at(total), &mut operands);
    }

    /// Weighted sums in float32: of the own node's experts in the order of choice, of each other
    /// node's likewise and rounded, in the order of its first; then what is added.
    fn combine(&self, tokens: &Tokens, results: &Array) -> Vec<Vec<u16>> {
        let (columns, per_node) =
            (self.spread.sizes[0], u64::from(self.spread.exchange().ranks.per_node()));
        let each = self.spread.experts / u64::from(self.spread.ranks[0]);
        let mut token = 0;
        let mut of_rank = |(rank, &count): (usize, &u64)| {
            let mut out = vec![];
            for _ in 0..count {
                let nodes: Vec<u64> = (0..self.spread.top_k)
                    .map(|j| tokens.chosen.get(&[token, j]) as u64 / each / per_node)
                    .collect();
                let here = rank as u64 / per_node;
                let mut others: Vec<u64> = vec![];
                for &node in nodes.iter().filter(|&&node| node != here) {
                    if !others.contains(&node) {
                        others.push(node);
                    }
                }
                for n in 0..columns {
                    let sum_of = |node: u64| {
                        (0..self.spread.top_k).filter(|&j| nodes[j as usize] == node).fold(
                            0.0_f32,
                            |sum, j| {
                                let result = results.get(&[token, j, n]) as f32;
                                result.mul_add(tokens.weight.get(&[token, j]) as f32, sum)
                            },
                        )
                    };
                    let sum = others.iter().fold(sum_of(here), |sum, &node| {
                        sum + bf16::from_f32(sum_of(node)).to_f32()
                    });
                    let sum = sum + tokens.add.get(&[token, n]) as f32;
                    out.push(bf16::from_f32(sum).to_bits());
                }
                token += 1;
            }
            out
        };
        self.tokens.iter().enumerate().map(&mut of_rank).collect()
    }
}

/// The code of the three kernels.
#[derive(Clone)]
pub(crate) struct Code {
    kernels: [(KernelCode, Module, &'static str); 3],
    spec: SpreadExperts,
}

impl Code {
    pub(crate) fn new(problem: &Problem) -> Self {
        let target = Target::named("h800").unwrap();
        let spec = problem.spread.spec();
        let exchange = spec.exchange.clone();
        let each = exchange.experts_each();
        let all = t() * u64::from(problem.spread.ranks[0]);
        let plan = View::dense(I32, &[all, problem.spread.top_k.into()]).unwrap();
        let (chosen, weight) = (spec.chosen.clone(), spec.weight.clone());
        let kernel = |name: &'static str, spec: &KernelSpec| {
            let step = problem.step(problem.designed);
            let code = generate_kernel(spec, step, &target, name, Options::default())
                .unwrap_or_else(|e| panic!("{}: {e:?}", problem.name));
            let module = Module::parse(&code.ptx)
                .unwrap_or_else(|e| panic!("{}: {e}\n{}", problem.name, code.ptx));
            (code, module, name)
        };
        let kernels = [
            kernel("routes", &KernelSpec::ExchangeRoutes { exchange, chosen, weight }),
            kernel("plan", &KernelSpec::RoutePlan { chosen: plan, n_experts: each + 1 }),
            kernel("experts", &KernelSpec::SpreadExperts(Box::new(spec.clone()))),
        ];
        Self { kernels, spec }
    }

    /// The PTX of the kernel of experts.
    pub(crate) fn experts(&self) -> &str {
        self.ptx("experts")
    }

    fn place(&self, kernel: &str) -> usize {
        self.kernels.iter().position(|(.., name)| *name == kernel).unwrap()
    }

    /// The PTX of `routes`, `plan` or `experts`.
    pub(crate) fn ptx(&self, kernel: &str) -> &str {
        &self.kernels[self.place(kernel)].0.ptx
    }

    /// The same with other PTX for a kernel.
    #[allow(dead_code, reason = "only mutants have other PTX")]
    pub(crate) fn with(mut self, kernel: &str, ptx: String) -> Self {
        let place = self.place(kernel);
        self.kernels[place].1 = Module::parse(&ptx).unwrap_or_else(|e| panic!("{kernel}: {e}"));
        self.kernels[place].0.ptx = ptx;
        self
    }
}

/// Shared memory of a CTA of which an SM has room for one only: it has 228 KiB (CUDA C++
/// Programming Guide, compute capability 9.0).
const LARGE: u32 = 200 << 10;

/// Rows of a rank of an operand that has all ranks' one after the other.
fn rows(array: &Array, first: u64, count: u64) -> Vec<u8> {
    let bytes = array.bytes.len() as u64 / array.shape[0];
    array.bytes[(first * bytes) as usize..((first + count) * bytes) as usize].to_vec()
}

/// A layer: what it computes, and with what.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) code: &'a Code,
    pub(crate) weights: &'a Weights,
    pub(crate) tokens: &'a Tokens,
}

/// How layers are launched, and on what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launching {
    pub(crate) schedule: Schedule,
    /// Whether races are reported.
    pub(crate) races: bool,
    /// SMs of a device, each of which has room for one CTA; else as many as an H800 has.
    pub(crate) sms: Option<u32>,
    /// The plan is launched for the tokens of its rank, not for the most of any.
    pub(crate) plan_of_own: bool,
    /// What ranks are told of the most tokens of any, where it is not so.
    pub(crate) told_most: Option<u64>,
    /// The second of the layers is one of other sizes.
    #[allow(dead_code, reason = "only the tests of mutants read it")]
    pub(crate) two_sizes: bool,
}

impl From<Schedule> for Launching {
    fn from(schedule: Schedule) -> Self {
        Self {
            schedule,
            races: false,
            sms: None,
            plan_of_own: false,
            told_most: None,
            two_sizes: false,
        }
    }
}

/// What each layer gave on each rank.
pub(crate) type Outs = Vec<Vec<Vec<u16>>>;

/// Runs layers in a row on all ranks and returns what each gave on each rank.
pub(crate) fn exchange(
    problem: &Problem,
    code: &Code,
    weights: &Weights,
    layers: &[Tokens],
    schedule: Schedule,
) -> Outs {
    let layers: Vec<Layer<'_>> =
        layers.iter().map(|tokens| Layer { problem, code, weights, tokens }).collect();
    let (outs, _) = attempt(&layers, schedule.into())
        .unwrap_or_else(|e| panic!("{}, {schedule:?}: {e}", problem.name));
    outs
}

/// [`exchange`] of layers that may differ in all but the ranks and their tokens, on the same
/// regions; with the races that were found.
pub(crate) fn attempt(
    layers: &[Layer<'_>],
    launching: Launching,
) -> Result<(Outs, Vec<Race>), moec_emulator::Error> {
    let device = DeviceConfig {
        sm_count: launching.sms.unwrap_or(132),
        poison: Some(POISON),
        threads: 1,
        schedule: launching.schedule,
        livelock_instructions: 1 << 24,
        races: launching.races,
        ..DeviceConfig::default()
    };
    let problem = layers[0].problem;
    let [ranks, _] = problem.spread.ranks;
    let ranks_per_node = problem.spread.exchange().ranks.per_node();
    let mut group = Group::new(GroupConfig { ranks, ranks_per_node, device }).unwrap();
    let most = launching.told_most.unwrap_or(problem.most());
    let regions = Region::ALL.map(|region| {
        let of = |l: &Layer<'_>| l.code.spec.exchange.region_bytes(region).eval(&at(most));
        let bytes = layers.iter().map(of).fold(16, u64::max) as usize;
        let id = group.alloc_symmetric(bytes, region.name()).unwrap();
        for rank in 0..ranks {
            let address = group.address(id, rank);
            group.device_mut(rank).fill(address, 0, bytes).unwrap();
        }
        id
    });
    let mut outs = vec![];
    let mut queues = vec![];
    let mut first = 0;
    for (rank, &count) in (0..ranks).zip(&problem.tokens) {
        let told = (0..ranks).map(|other| {
            let near = other / ranks_per_node == rank / ranks_per_node;
            let base = |rank| group.address(regions[0], rank);
            if near { base(other).wrapping_sub(base(rank)) } else { 0 }
        });
        let told: Vec<u64> = [u64::from(rank), most].into_iter().chain(told).collect();
        let regions = regions.map(|region| group.address(region, rank));
        let device = group.device_mut(rank);
        let mut buffer = |name: &str, bytes: &[u8]| {
            let address = device.alloc(bytes.len().max(16), name).unwrap();
            device.write(address, bytes).unwrap();
            address
        };
        let told = buffer("group", &told.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        let (mut queue, mut of_rank) = (vec![], vec![]);
        for (layer, &Layer { problem, code, weights, tokens }) in layers.iter().enumerate() {
            let each = code.spec.exchange.experts_each();
            let own = |array: &Array| rows(array, u64::from(rank) * each, each);
            let mut matrix = |[w, scale]: &[Array; 2], name: &str| {
                let mut addresses = vec![buffer(name, &own(w))];
                if problem.spread.fp8 {
                    addresses.push(buffer(name, &own(scale)));
                }
                addresses
            };
            let matrices =
                [matrix(&weights.first, "first"), matrix(&weights.second, "second")].concat();
            let mut input = |array: &Array, name: &str| buffer(name, &rows(array, first, count));
            let x = input(&tokens.x, "x");
            let x_scale = problem.spread.fp8.then(|| input(&tokens.x_scale, "x_scale"));
            let [chosen, weight] = [&tokens.chosen, &tokens.weight].map(|a| input(a, "route"));
            let add = input(&tokens.add, "add");
            let out = buffer("out", &vec![POISON; (count * problem.spread.sizes[0] * 2) as usize]);
            of_rank.push((out, (count * problem.spread.sizes[0] * 2) as usize));
            let routes = vec![chosen, weight, told, regions[0], regions[1]];
            let experts = [x].into_iter().chain(x_scale).chain([chosen, weight]);
            let experts = experts.chain(matrices).chain([add, out, told]).chain(regions);
            let operands = [routes, vec![regions[1], regions[2]], experts.collect()];
            for (i, ((code, module, name), operands)) in
                code.kernels.iter().zip(operands).enumerate()
            {
                let sizes = at(if i == 1 && !launching.plan_of_own { most } else { count });
                let mut queued = launch(code, module, name, &operands, &sizes);
                queued.label = format!("{name} {layer}");
                if launching.sms.is_some() {
                    queued.config.dynamic_shared_bytes = LARGE;
                }
                queue.push(queued);
            }
        }
        outs.push(of_rank);
        queues.push(queue);
        first += count;
    }
    let report = group.run(&queues)?;
    let read = |rank: u32, (out, len): (u64, usize)| {
        let mut bytes = vec![0; len];
        group.device(rank).read(out, &mut bytes).unwrap();
        bytes.chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect()
    };
    let of_layer =
        |layer: usize| (0..).zip(&outs).map(|(rank, outs)| read(rank, outs[layer])).collect();
    Ok(((0..layers.len()).map(of_layer).collect(), report.races))
}

fn launch(
    code: &KernelCode,
    module: &Module,
    name: &str,
    operands: &[u64],
    sizes: &Sizes,
) -> QueuedLaunch {
    let numbers = [sizes.tokens, sizes.past, sizes.sequences].map(|n| Arg::U32(n as u32));
    let maps = code
        .geometry
        .tensor_maps
        .iter()
        .map(|map| Arg::Bytes(encode(map, operands[map.operand], sizes).unwrap().into()));
    QueuedLaunch {
        label: name.to_owned(),
        module: module.clone(),
        kernel: name.to_owned(),
        config: LaunchConfig {
            grid: [0, 1, 2].map(|axis| code.geometry.grid[axis].eval(sizes) as u32),
            block: code.geometry.block,
            dynamic_shared_bytes: code.geometry.shared_bytes,
            ..Default::default()
        },
        args: operands.iter().map(|&a| Arg::U64(a)).chain(numbers).chain(maps).collect(),
    }
}
