//! Typed values.

use super::{Builder, bug};
use melior::ir::attribute::{FloatAttribute, IntegerAttribute};
use melior::ir::{Type, Value};
use std::marker::PhantomData;

/// A value of type `T` in the kernel that `b` builds.
pub(crate) struct Val<'k, T> {
    pub(super) b: &'k Builder<'k>,
    pub(super) raw: Value<'k, 'k>,
    pub(super) of: PhantomData<T>,
}

/// float32.
pub(crate) type F32<'k> = Val<'k, f32>;
/// 32-bit integer, unsigned and below 2^31 unless said otherwise.
pub(crate) type I32<'k> = Val<'k, i32>;
/// 64-bit integer: an offset in bytes.
pub(crate) type I64<'k> = Val<'k, i64>;
/// Truth value; a predicate register.
pub(crate) type Bool<'k> = Val<'k, bool>;

impl<T> Clone for Val<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Val<'_, T> {}

/// Rust types that stand for types of the kernel.
pub(crate) trait Scalar: Sized {
    /// The MLIR type.
    fn mlir<'k>(b: &Builder<'k>) -> Type<'k>;
}

macro_rules! scalars {
    ($($rust:ty => $field:ident),*) => {
        $(impl Scalar for $rust {
            fn mlir<'k>(b: &Builder<'k>) -> Type<'k> { b.types.$field }
        })*
    };
}
scalars!(f32 => f32, i32 => i32, i64 => i64, bool => i1, u16 => i16, u8 => i8);

impl<'k, T: Scalar> Val<'k, T> {
    pub(super) fn new(b: &'k Builder<'k>, raw: Value<'k, 'k>) -> Self {
        Self { b, raw, of: PhantomData }
    }

    /// Appends an operation on this and other values.
    pub(super) fn apply<U: Scalar>(
        self,
        name: &str,
        others: &[Value<'k, 'k>],
        attributes: &[(&str, melior::ir::Attribute<'k>)],
    ) -> Val<'k, U> {
        let operands = [&[self.raw], others].concat();
        Val::new(self.b, self.b.value(name, &operands, U::mlir(self.b), attributes))
    }

    /// The bits as another type of the same size.
    pub(crate) fn bits<U: Scalar>(self) -> Val<'k, U> {
        self.apply("arith.bitcast", &[], &[])
    }

    /// This if `condition`, else `other`.
    pub(crate) fn when(self, condition: Bool<'k>, other: Self) -> Self {
        condition.apply("arith.select", &[self.raw, other.raw], &[])
    }
}

impl<'k> Builder<'k> {
    /// A float32 constant.
    pub(crate) fn f32(&'k self, value: f32) -> F32<'k> {
        let attribute = FloatAttribute::new(self.context, self.types.f32, f64::from(value));
        Val::new(self, self.constant(attribute.into(), self.types.f32))
    }

    /// A 32-bit integer constant; a size or index that must fit.
    pub(crate) fn i32(&'k self, value: impl TryInto<i64>) -> I32<'k> {
        let Ok(value) = value.try_into() else { bug("a constant above 2^63") };
        let attribute = IntegerAttribute::new(self.types.i32, value);
        Val::new(self, self.constant(attribute.into(), self.types.i32))
    }

    /// A 64-bit integer constant.
    pub(crate) fn i64(&'k self, value: impl TryInto<i64>) -> I64<'k> {
        let Ok(value) = value.try_into() else { bug("a constant above 2^63") };
        let attribute = IntegerAttribute::new(self.types.i64, value);
        Val::new(self, self.constant(attribute.into(), self.types.i64))
    }

    /// True or false.
    pub(crate) fn truth(&'k self, value: bool) -> Bool<'k> {
        let attribute = IntegerAttribute::new(self.types.i1, i64::from(value));
        Val::new(self, self.constant(attribute.into(), self.types.i1))
    }

    pub(super) fn constant(
        &self,
        attribute: melior::ir::Attribute<'k>,
        ty: Type<'k>,
    ) -> Value<'k, 'k> {
        self.value("arith.constant", &[], ty, &[("value", attribute)])
    }
}
