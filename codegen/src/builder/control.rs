//! Loops and branches, with values carried through them.

use super::value::Scalar;
use super::{Bool, Builder, I32, Val, argument_of, bug, result_of};
use melior::ir::{Block, BlockLike, Region, RegionLike, Type, Value, ValueLike};

/// Values that a loop carries from one turn to the next, or that a branch yields.
pub(crate) trait Carried<'k>: Clone {
    /// Appends the values, in order.
    fn flatten(&self, into: &mut Vec<Value<'k, 'k>>);
    /// Takes as many values, in the same order.
    fn rebuild(&self, from: &mut dyn Iterator<Item = Value<'k, 'k>>) -> Self;
}

impl<'k, T: Scalar> Carried<'k> for Val<'k, T> {
    fn flatten(&self, into: &mut Vec<Value<'k, 'k>>) {
        into.push(self.raw);
    }
    fn rebuild(&self, from: &mut dyn Iterator<Item = Value<'k, 'k>>) -> Self {
        Val::new(self.b, from.next().unwrap_or_else(|| bug("a carried value is missing")))
    }
}

impl Carried<'_> for () {
    fn flatten(&self, _: &mut Vec<Value<'_, '_>>) {}
    fn rebuild(&self, _: &mut dyn Iterator<Item = Value<'_, '_>>) -> Self {}
}

impl<'k, C: Carried<'k>> Carried<'k> for Vec<C> {
    fn flatten(&self, into: &mut Vec<Value<'k, 'k>>) {
        self.iter().for_each(|c| c.flatten(into));
    }
    fn rebuild(&self, from: &mut dyn Iterator<Item = Value<'k, 'k>>) -> Self {
        self.iter().map(|c| c.rebuild(from)).collect()
    }
}

impl<'k, A: Carried<'k>, C: Carried<'k>> Carried<'k> for (A, C) {
    fn flatten(&self, into: &mut Vec<Value<'k, 'k>>) {
        self.0.flatten(into);
        self.1.flatten(into);
    }
    fn rebuild(&self, from: &mut dyn Iterator<Item = Value<'k, 'k>>) -> Self {
        (self.0.rebuild(from), self.1.rebuild(from))
    }
}

impl<'k, A: Carried<'k>, C: Carried<'k>, D: Carried<'k>> Carried<'k> for (A, C, D) {
    fn flatten(&self, into: &mut Vec<Value<'k, 'k>>) {
        self.0.flatten(into);
        self.1.flatten(into);
        self.2.flatten(into);
    }
    fn rebuild(&self, from: &mut dyn Iterator<Item = Value<'k, 'k>>) -> Self {
        (self.0.rebuild(from), self.1.rebuild(from), self.2.rebuild(from))
    }
}

fn flat<'k>(carried: &impl Carried<'k>) -> Vec<Value<'k, 'k>> {
    let mut values = Vec::new();
    carried.flatten(&mut values);
    values
}

impl<'k> Builder<'k> {
    /// Appends what `body` builds to a block of its own, with these arguments.
    fn region(
        &'k self,
        arguments: &[Type<'k>],
        body: impl FnOnce(Vec<Value<'k, 'k>>),
    ) -> Region<'k> {
        let arguments: Vec<_> = arguments.iter().map(|&t| (t, self.location)).collect();
        let region = Region::new();
        let block = region.append_block(Block::new(&arguments)).to_raw();
        let values = (0..arguments.len()).map(|i| argument_of(block, i)).collect();
        let outer = self.block.replace(block);
        body(values);
        self.block.set(outer);
        region
    }

    /// `for i in (from..to).step_by(step)`, carrying values.
    pub(crate) fn for_loop<C: Carried<'k>>(
        &'k self,
        from: I32<'k>,
        to: I32<'k>,
        step: I32<'k>,
        init: C,
        body: impl FnOnce(I32<'k>, C) -> C,
    ) -> C {
        let values = flat(&init);
        let types: Vec<_> = values.iter().map(ValueLike::r#type).collect();
        let region = self.region(&[&[self.types.i32], &types[..]].concat(), |arguments| {
            let mut arguments = arguments.into_iter();
            let i = arguments.next().unwrap_or_else(|| bug("a loop without a variable"));
            let next = body(Val::new(self, i), init.rebuild(&mut arguments));
            self.op("scf.yield", &flat(&next), &[], &[]);
        });
        let operands = [&[from.raw, to.raw, step.raw], &values[..]].concat();
        let done = self.op_with_regions("scf.for", &operands, &types, &[], vec![region]);
        init.rebuild(&mut (0..types.len()).map(|i| result_of(done, i)))
    }

    /// Runs `body` where the condition holds.
    pub(crate) fn if_(&'k self, condition: Bool<'k>, body: impl FnOnce()) {
        let then = self.region(&[], |_| {
            body();
            self.op("scf.yield", &[], &[], &[]);
        });
        self.op_with_regions("scf.if", &[condition.raw], &[], &[], vec![then, Region::new()]);
    }

    /// Runs `then` where the condition holds, else `otherwise`.
    pub(crate) fn if_or(
        &'k self,
        condition: Bool<'k>,
        then: impl FnOnce(),
        otherwise: impl FnOnce(),
    ) {
        let then = self.region(&[], |_| {
            then();
            self.op("scf.yield", &[], &[], &[]);
        });
        let otherwise = self.region(&[], |_| {
            otherwise();
            self.op("scf.yield", &[], &[], &[]);
        });
        self.op_with_regions("scf.if", &[condition.raw], &[], &[], vec![then, otherwise]);
    }

    /// The values of `then` where the condition holds, else `otherwise` (computed before).
    pub(crate) fn if_else<C: Carried<'k>>(
        &'k self,
        condition: Bool<'k>,
        otherwise: C,
        then: impl FnOnce() -> C,
    ) -> C {
        let values = flat(&otherwise);
        let types: Vec<_> = values.iter().map(ValueLike::r#type).collect();
        let then = self.region(&[], |_| {
            let results = flat(&then());
            self.op("scf.yield", &results, &[], &[]);
        });
        let other = self.region(&[], |_| {
            self.op("scf.yield", &values, &[], &[]);
        });
        let done = self.op_with_regions("scf.if", &[condition.raw], &types, &[], vec![then, other]);
        otherwise.rebuild(&mut (0..types.len()).map(|i| result_of(done, i)))
    }

    /// The values of `then` where the condition holds, else those of `otherwise`; only one of them
    /// runs.
    pub(crate) fn either<C: Carried<'k>>(
        &'k self,
        condition: Bool<'k>,
        then: impl FnOnce() -> C,
        otherwise: impl FnOnce() -> C,
    ) -> C {
        let yields = |values: &C| {
            self.op("scf.yield", &flat(values), &[], &[]);
        };
        let mut kept = None;
        let then = self.region(&[], |_| {
            let values = then();
            yields(&values);
            kept = Some(values);
        });
        let otherwise = self.region(&[], |_| yields(&otherwise()));
        let kept = kept.unwrap_or_else(|| bug("a branch without values"));
        let types: Vec<_> = flat(&kept).iter().map(ValueLike::r#type).collect();
        let regions = vec![then, otherwise];
        let done = self.op_with_regions("scf.if", &[condition.raw], &types, &[], regions);
        kept.rebuild(&mut (0..types.len()).map(|i| result_of(done, i)))
    }

    /// `while condition(c) { c = body(c) }`; returns the last `c`.
    pub(crate) fn while_loop<C: Carried<'k>>(
        &'k self,
        init: C,
        condition: impl FnOnce(C) -> Bool<'k>,
        body: impl FnOnce(C) -> C,
    ) -> C {
        let values = flat(&init);
        let types: Vec<_> = values.iter().map(ValueLike::r#type).collect();
        let before = self.region(&types, |arguments| {
            let goes_on = condition(init.rebuild(&mut arguments.clone().into_iter()));
            self.op("scf.condition", &[&[goes_on.raw], &arguments[..]].concat(), &[], &[]);
        });
        let after = self.region(&types, |arguments| {
            let next = body(init.rebuild(&mut arguments.into_iter()));
            self.op("scf.yield", &flat(&next), &[], &[]);
        });
        let done = self.op_with_regions("scf.while", &values, &types, &[], vec![before, after]);
        init.rebuild(&mut (0..types.len()).map(|i| result_of(done, i)))
    }
}
