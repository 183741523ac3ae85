//! Kernels that route tokens to experts.

use super::{Done, as_rows};
use crate::language::Router;
use crate::plan::emit::Emitter;
use crate::plan::place::Place;
use moec_ir::kernel::KernelSpec;
use moec_ir::{DType, TensorType};

impl Emitter<'_> {
    pub(super) fn route_plan(&mut self, value: usize, n_experts: u64, operands: &[usize]) -> Done {
        let chosen = self.place(operands[0])?;
        let route = self.target(value, &self.ty(value).shape.clone())?;
        let spec = KernelSpec::RoutePlan { chosen: chosen.view(), n_experts };
        self.launch(value, spec, &[&chosen, &route]);
        self.written(value)
    }

    /// One launch writes experts and weights, which stand later in the list.
    pub(super) fn router(&mut self, value: usize, router: &Router, operands: &[usize]) -> Done {
        let logits = self.operand(operands[0], &as_rows(&self.ty(operands[0]).clone()))?;
        let bias = operands.get(1).map(|b| self.place(*b)).transpose()?;
        let shape = self.ty(value).shape.clone();
        let [first, second, _] = self.results(value);
        let chosen = self.target(first.unwrap_or(value), &shape)?;
        let weight = match second {
            Some(second) => self.target(second, &shape)?,
            None => self.temp(&TensorType::new(DType::F32, shape), value)?,
        };
        let spec = KernelSpec::Router {
            logits: logits.view(),
            bias: bias.as_ref().map(Place::view),
            chosen: chosen.view(),
            weight: weight.view(),
            scoring: router.scoring,
            groups: router.groups,
            normalize: router.normalize,
            scale: router.scale,
        };
        let all: Vec<&Place> =
            [&logits].into_iter().chain(&bias).chain([&chosen, &weight]).collect();
        self.launch(value, spec, &all);
        for written in first.into_iter().chain(second) {
            self.written(written)?;
        }
        Ok(())
    }
}
