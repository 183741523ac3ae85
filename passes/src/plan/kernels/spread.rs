//! Routed experts that are spread over ranks: three launches, and memory that ranks share.

use super::{Done, as_rows};
use crate::language::Spread;
use crate::plan::emit::Emitter;
use crate::plan::place::{Place, Root};
use moec_ir::kernel::exchange::{Activation, ExpertMatrices, Region, SpreadExperts};
use moec_ir::kernel::{Exchange, KernelSpec, View};
use moec_ir::{DType, Dim, Ranks, Sym};

impl Emitter<'_> {
    pub(super) fn spread_experts(
        &mut self,
        value: usize,
        spread: &Spread,
        operands: &[usize],
    ) -> Done {
        let at = spread.places();
        let ranks = self.cost.ranks.unwrap_or(Ranks::ONE);
        let x = self.operand(operands[0], &as_rows(&self.ty(operands[0]).clone()))?;
        let x_scale = at.x_scale.map(|i| self.place(operands[i])).transpose()?;
        let chosen = self.place(operands[at.chosen])?;
        let weight = self.place(operands[at.weight])?;
        let width = |place: &Place| place.shape.last().and_then(Dim::constant).unwrap_or(0);
        let middle_scales =
            spread.quantized.map_or(0, |(block, _)| spread.middle.0.div_ceil(block));
        let exchange = Exchange {
            ranks,
            experts: spread.n_experts,
            top_k: spread.top_k,
            row: (width(&x), x.dtype),
            scales: x_scale.as_ref().map_or(0, width),
            hidden: spread.hidden,
            middle: spread.middle,
            middle_scales,
            result: spread.result,
        };
        let each = exchange.experts_each();
        let matrices = |i: usize, scale: Option<usize>| {
            // A rank has its own experts alone.
            let own = |place: Place| place.slice(0, 0, each);
            let w = own(self.place(operands[i])?);
            let scale = scale.map(|i| self.place(operands[i]).map(own)).transpose()?;
            Ok::<_, moec_ir::Diagnostic>((w, scale))
        };
        let first = matrices(at.w, at.w_scale)?;
        let second = matrices(at.v, at.v_scale)?;
        let adds = operands[at.adds..].iter().map(|o| self.place(*o));
        let adds: Vec<Place> = adds.collect::<Result<_, _>>()?;
        let out = self.target(value, &self.ty(value).shape.clone())?;
        let block = spread.blocks.into_iter().flatten().next().unwrap_or([1, 1]);
        let described = |(w, scale): &(Place, Option<Place>)| ExpertMatrices {
            w: w.view(),
            scale: scale.as_ref().map(Place::view),
        };
        let spec = SpreadExperts {
            exchange: exchange.clone(),
            x: x.view(),
            x_scale: x_scale.as_ref().map(Place::view),
            chosen: chosen.view(),
            weight: weight.view(),
            first: described(&first),
            activation: Activation {
                inputs: spread.inputs.clone(),
                code: spread.code.clone(),
                quantized: spread.quantized,
            },
            second: described(&second),
            adds: adds.iter().map(Place::view).collect(),
            out: out.view(),
            block,
            promote_every: self.cost.promote_every.unwrap_or(block[1]),
            split: self.cost.split(&exchange),
        };
        let regions: Vec<Place> = Region::ALL.map(|r| self.region(&exchange, r)).into();
        let region = |r: Region| &regions[r as usize];
        let group = Place { root: Root::Group, ..bytes(Dim::from(0)) };
        let tell = KernelSpec::ExchangeRoutes {
            exchange: exchange.clone(),
            chosen: chosen.view(),
            weight: weight.view(),
        };
        let (routes, local) = (region(Region::Routes), region(Region::Chosen));
        let none = crate::cost::Estimate::default();
        self.launch_at(none, value, tell, &[&chosen, &weight, &group, routes, local]);
        let tokens = Dim::from(Sym::Tokens) * u64::from(ranks.count());
        let all = [tokens, Dim::from(exchange.top_k)];
        let dense = View::dense(DType::I32, &all).ok_or_else(|| self.no_layout(value))?;
        // Those of other ranks have a place of their own behind this rank's.
        let plan = KernelSpec::RoutePlan { chosen: dense, n_experts: each + 1 };
        self.launch_of_group(value, plan, &[local, region(Region::Plan)]);
        let [first, second] = [&first, &second].map(|(w, scale)| [w].into_iter().chain(scale));
        let places: Vec<&Place> = [&x]
            .into_iter()
            .chain(&x_scale)
            .chain([&chosen, &weight])
            .chain(first)
            .chain(second)
            .chain(&adds)
            .chain([&out, &group])
            .chain(&regions)
            .collect();
        self.launch(value, KernelSpec::SpreadExperts(Box::new(spec)), &places);
        self.written(value)
    }

    fn region(&mut self, exchange: &Exchange, region: Region) -> Place {
        let root = Root::Symmetric(self.symmetric(exchange, region));
        Place { root, ..bytes(exchange.region_bytes(region)) }
    }
}

/// Memory without a type.
fn bytes(size: Dim) -> Place {
    Place { root: Root::Group, offset: 0, dtype: DType::I32, shape: vec![size], strides: vec![1] }
}
