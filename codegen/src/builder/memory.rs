//! Pointers, loads and stores. PTX ISA 9.7.9 (`ld`, `st`).

use super::value::Scalar;
use super::{Bool, Builder, F32, I32, I64, Val, bug};
use melior::ir::attribute::{FlatSymbolRefAttribute, TypeAttribute};
use melior::ir::{Attribute, Type, Value};

/// A state space (PTX ISA 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// `.global`
    Global,
    /// `.shared`
    Shared,
}

/// An address.
#[derive(Clone, Copy)]
pub(crate) struct Ptr<'k> {
    b: &'k Builder<'k>,
    raw: Value<'k, 'k>,
    space: Space,
    /// Nothing writes there while the kernel runs: `ld.global.nc`.
    read_only: bool,
}

/// A GEP index that stands for the dynamic operand (MLIR, LLVMOps.td: `kDynamicIndex`).
const DYNAMIC: i32 = i32::MIN;

impl<'k> Builder<'k> {
    /// The pointer parameter of that index.
    pub(crate) fn operand(&'k self, index: usize) -> Ptr<'k> {
        let raw = super::argument_of(self.entry, index);
        Ptr { b: self, raw, space: Space::Global, read_only: false }
    }

    /// Static shared memory of that size, aligned to 16 bytes.
    pub(crate) fn shared_memory(&'k self, bytes: u64) -> Ptr<'k> {
        let mut arrays = self.shared.borrow_mut();
        let name = format!("{}_shared_{}", self.signature.name, arrays.len());
        let symbol = FlatSymbolRefAttribute::new(self.context, &name);
        let attributes = [("global_name", symbol.into())];
        let raw = self.value("llvm.mlir.addressof", &[], self.types.shared, &attributes);
        arrays.push((name, bytes));
        Ptr { b: self, raw, space: Space::Shared, read_only: false }
    }
}

impl<'k> Ptr<'k> {
    /// The same address; nothing writes there while the kernel runs.
    pub(crate) fn read_only(self) -> Self {
        Self { read_only: self.space == Space::Global, ..self }
    }

    fn element(self, operands: &[Value<'k, 'k>], constant: i32) -> Self {
        let b = self.b;
        let attributes = [
            ("elem_type", TypeAttribute::new(b.types.i8).into()),
            ("rawConstantIndices", b.parse(&format!("array<i32: {constant}>"))),
            ("noWrapFlags", b.parse("3 : i32")),
        ];
        let ty = match self.space {
            Space::Global => b.types.global,
            Space::Shared => b.types.shared,
        };
        let operands = [&[self.raw], operands].concat();
        Self { raw: b.value("llvm.getelementptr", &operands, ty, &attributes), ..self }
    }

    /// That many bytes further.
    pub(crate) fn add(self, bytes: I64<'k>) -> Self {
        self.element(&[bytes.raw], DYNAMIC)
    }

    /// A constant number of bytes further.
    pub(crate) fn add_const(self, bytes: u64) -> Self {
        match i32::try_from(bytes) {
            Ok(0) => self,
            Ok(small) => self.element(&[], small),
            Err(_) => self.add(self.b.i64(i64::try_from(bytes).unwrap_or_else(|e| bug(e)))),
        }
    }

    /// `index * stride` bytes further.
    pub(crate) fn index(self, index: I32<'k>, stride: u64) -> Self {
        match stride {
            0 => self,
            1 => self.add(index.wide()),
            _ => self.add(index.wide() * i64::try_from(stride).unwrap_or_else(|e| bug(e))),
        }
    }

    fn attributes(self, bytes: u64) -> Vec<(&'static str, Attribute<'k>)> {
        let mut attributes = vec![
            ("alignment", self.b.parse(&format!("{bytes} : i64"))),
            ("ordering", self.b.parse("0 : i64")),
        ];
        if self.read_only {
            attributes.push(("invariant", self.b.parse("unit")));
        }
        attributes
    }

    pub(super) fn load_as(self, ty: Type<'k>, bytes: u64) -> Value<'k, 'k> {
        self.b.value("llvm.load", &[self.raw], ty, &self.attributes(bytes))
    }

    pub(super) fn store_as(self, value: Value<'k, 'k>, bytes: u64) {
        let plain = Self { read_only: false, ..self };
        self.b.op("llvm.store", &[value, self.raw], &[], &plain.attributes(bytes));
    }

    /// A pointer to writable memory of a device.
    pub(super) fn global(b: &'k Builder<'k>, raw: Value<'k, 'k>) -> Self {
        Self::new(b, raw, Space::Global)
    }

    /// A pointer to writable memory.
    pub(super) fn new(b: &'k Builder<'k>, raw: Value<'k, 'k>, space: Space) -> Self {
        Self { b, raw, space, read_only: false }
    }

    /// The address as MLIR has it.
    pub(super) fn raw(self) -> Value<'k, 'k> {
        self.raw
    }

    /// The builder that this belongs to.
    pub(crate) fn builder(self) -> &'k Builder<'k> {
        self.b
    }

    /// One address if the condition holds, else the other.
    pub(crate) fn either(condition: Bool<'k>, then: Self, otherwise: Self) -> Self {
        let b = then.b;
        let operands = [condition.raw, then.raw, otherwise.raw];
        let raw = b.value("llvm.select", &operands, b.types.global, &[]);
        Self::new(b, raw, then.space)
    }

    /// `index * stride` bytes further, where both are known only to the device.
    pub(crate) fn index_by(self, index: I32<'k>, stride: I64<'k>) -> Self {
        self.add(index.wide() * stride)
    }

    /// One scalar, aligned to its size.
    pub(crate) fn load_scalar<T: Scalar>(self) -> Val<'k, T> {
        let bytes = std::mem::size_of::<T>() as u64;
        Val::new(self.b, self.load_as(T::mlir(self.b), bytes))
    }

    /// Stores one scalar, aligned to its size.
    pub(crate) fn store_scalar<T: Scalar>(self, value: Val<'k, T>) {
        self.store_as(value.raw, std::mem::size_of::<T>() as u64);
    }

    /// 1, 2 or 4 consecutive 32-bit words, aligned to their size: `ld.v4.b32`.
    pub(crate) fn load_words<T: Scalar>(self, count: usize) -> Vec<Val<'k, T>> {
        if count == 1 {
            return vec![self.load_scalar()];
        }
        let b = self.b;
        let ty = b.vector(count as u64, T::mlir(b));
        let vector = self.load_as(ty, 4 * count as u64);
        (0..count).map(|i| Val::new(b, b.extract(vector, i, T::mlir(b)))).collect()
    }

    /// Stores 1, 2 or 4 consecutive 32-bit words, aligned to their size: `st.v4.b32`.
    pub(crate) fn store_words<T: Scalar>(self, words: &[Val<'k, T>]) {
        let b = self.b;
        match words {
            [one] => self.store_scalar(*one),
            _ => {
                let ty = b.vector(words.len() as u64, T::mlir(b));
                let values: Vec<_> = words.iter().map(|w| w.raw).collect();
                self.store_as(
                    b.value("vector.from_elements", &values, ty, &[]),
                    4 * words.len() as u64,
                );
            }
        }
    }

    /// `count` consecutive float32, as wide as the count allows.
    pub(crate) fn load_f32(self, count: usize) -> Vec<F32<'k>> {
        let width = [4, 2, 1].into_iter().find(|&w| count.is_multiple_of(w)).unwrap_or(1);
        (0..count / width)
            .flat_map(|i| self.add_const((4 * width * i) as u64).load_words(width))
            .collect()
    }

    /// Adds to an integer in memory, atomically and relaxed; the old value:
    /// `atom.relaxed.gpu.add.u32` (PTX ISA 9.7.13.5).
    pub(crate) fn atomic_add(self, value: I32<'k>) -> I32<'k> {
        let b = self.b;
        let attributes = [
            ("bin_op", b.parse("1 : i64")),
            ("ordering", b.parse("2 : i64")),
            ("syncscope", b.parse("\"device\"")),
            ("alignment", b.parse("4 : i64")),
        ];
        Val::new(b, b.value("llvm.atomicrmw", &[self.raw, value.raw], b.types.i32, &attributes))
    }
}

impl<'k> Builder<'k> {
    /// One element of a vector.
    pub(super) fn extract(
        &self,
        vector: Value<'k, 'k>,
        index: usize,
        element: Type<'k>,
    ) -> Value<'k, 'k> {
        let attributes = [("static_position", self.parse(&format!("array<i64: {index}>")))];
        self.value("vector.extract", &[vector], element, &attributes)
    }
}
