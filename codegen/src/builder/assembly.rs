//! Instructions that are written as inline assembly: those whose operands MLIR's `nvvm` dialect
//! and LLVM's intrinsics cannot give in the form that we need.

use super::value::Scalar;
use super::{Builder, I32, I64, Val, bug, parse_type, result_of};
use melior::ir::attribute::StringAttribute;
use melior::ir::{Type, Value};

impl<'k> Builder<'k> {
    /// Appends assembly that may not be moved, removed or repeated; `$0`, `$1`.. are the results,
    /// then the operands. Constraints: LLVM language reference, "Inline Assembler Expressions",
    /// NVPTX: `r` for 32 bits, `l` for 64, `f` for float32.
    pub(super) fn assembly(
        &'k self,
        text: &str,
        constraints: &str,
        operands: &[Value<'k, 'k>],
        results: &[Type<'k>],
    ) -> Vec<Value<'k, 'k>> {
        let attributes = [
            ("asm_string", StringAttribute::new(self.context, text).into()),
            ("constraints", StringAttribute::new(self.context, constraints).into()),
            ("has_side_effects", self.parse("unit")),
        ];
        let packed: Vec<Type<'k>> = match results {
            [] => vec![],
            [one] => vec![*one],
            many => {
                let names: Vec<String> = many.iter().map(Type::to_string).collect();
                vec![parse_type(self.context, &format!("!llvm.struct<({})>", names.join(", ")))]
            }
        };
        let done = self.op("llvm.inline_asm", operands, &packed, &attributes);
        match results.len() {
            0 => vec![],
            1 => vec![result_of(done, 0)],
            _ => {
                let pack = result_of(done, 0);
                let field = |(i, &ty): (usize, &Type<'k>)| {
                    let position = [("position", self.parse(&format!("array<i64: {i}>")))];
                    self.value("llvm.extractvalue", &[pack], ty, &position)
                };
                results.iter().enumerate().map(field).collect()
            }
        }
    }

    /// Appends assembly with one 32-bit result.
    pub(super) fn assembly_word<T: Scalar>(
        &'k self,
        text: &str,
        constraints: &str,
        operands: &[Value<'k, 'k>],
    ) -> Val<'k, T> {
        match self.assembly(text, constraints, operands, &[T::mlir(self)])[..] {
            [value] => Val::new(self, value),
            _ => bug("assembly without its result"),
        }
    }

    /// Appends assembly that changes registers in place: `$0`.. are these, then come the operands.
    pub(super) fn assembly_in_place<T: Register>(
        &'k self,
        text: &str,
        registers: &[Val<'k, T>],
        constraints: &str,
        operands: &[Value<'k, 'k>],
    ) -> Vec<Val<'k, T>> {
        let count = registers.len();
        let outputs = vec![T::OUTPUT; count].join(",");
        let tied: Vec<String> = (0..count).map(|i| i.to_string()).collect();
        // LLVM numbers the tied inputs too, after the outputs; operands come before them here.
        let constraints = [&outputs, constraints, &tied.join(","), "~{memory}"]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(",");
        let inputs: Vec<_> =
            operands.iter().copied().chain(registers.iter().map(|r| r.raw)).collect();
        let results = self.assembly(text, &constraints, &inputs, &vec![T::mlir(self); count]);
        results.into_iter().map(|raw| Val::new(self, raw)).collect()
    }
}

/// What assembly keeps in 32-bit registers.
pub(super) trait Register: Scalar {
    /// The constraint of a result.
    const OUTPUT: &'static str;
}

impl Register for f32 {
    const OUTPUT: &'static str = "=f";
}

impl Register for i32 {
    const OUTPUT: &'static str = "=r";
}

impl<'k> I32<'k> {
    /// The same number, of which LLVM knows nothing: `mov.b32` (PTX ISA 9.7.9.1). What is computed
    /// from it in a loop stays there, instead of being kept in registers throughout.
    pub(crate) fn anew(self) -> Self {
        self.b.assembly_word("mov.b32 $0, $1;", "=r,r", &[self.raw])
    }

    /// The bits from that number on, none from 32 on: `shl.b32` (PTX ISA 9.7.8.8), which clamps.
    pub(crate) fn bits_from(self) -> Self {
        self.b.assembly_word("shl.b32 $0, -1, $1;", "=r,r", &[self.raw])
    }
}

impl<'k> I64<'k> {
    /// As [`I32::anew`]: `mov.b64` (PTX ISA 9.7.9.1). Of sums with constants LLVM makes alternatives
    /// and sums with what is below; ptxas adds 64 bits in one uniform instruction where it sees one
    /// base for all.
    pub(crate) fn anew(self) -> Self {
        match self.b.assembly("mov.b64 $0, $1;", "=l,l", &[self.raw], &[self.b.types.i64])[..] {
            [value] => Val::new(self.b, value),
            _ => bug("assembly without its result"),
        }
    }
}
