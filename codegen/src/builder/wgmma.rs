//! Matrix products of a warpgroup, asynchronous (PTX ISA 9.7.15): the right operand in shared
//! memory, the left one there or in registers.
//!
//! A product of 64 rows by `columns` leaves in a thread `columns / 2` sums: number `i` is that of
//! row `16 * (warp % 4) + lane / 4 + 8 * (i / 2 % 2)` and column
//! `8 * (i / 4) + 2 * (lane % 4) + i % 2` (PTX ISA 9.7.15.5.1, figure "WGMMA .m64nNk16 register
//! fragment layout for accumulator matrix D").

use super::{Builder, F32, I32, I64, Val, bug};
use moec_ir::DType;

/// Rows of a product.
pub(crate) const ROWS: u64 = 64;
/// Columns of a product, at most (PTX ISA 9.7.15.2).
pub(crate) const MOST_COLUMNS: u64 = 256;
/// Bytes along `k` of one product's operands.
pub(crate) const DEPTH_BYTES: u64 = 32;
/// Bytes of a row of an operand in shared memory, and within which chunks are permuted.
pub(crate) const ROW_BYTES: u64 = 128;

/// Operands of a product in the text of its instruction: numbers and constraints of the left
/// operand, and whether the right one is read across its rows.
struct Form {
    left: usize,
    constraints: String,
    transposed: bool,
}

impl<'k> Builder<'k> {
    /// The descriptor of a matrix in shared memory, `k` innermost in rows of 128 bytes with the
    /// 128-byte swizzle, at a multiple of 1024 (PTX ISA 9.7.15.5.1.2, "Matrix Descriptor Format"):
    /// the address in 16 bytes; stride between groups of 8 rows, in 16 bytes, from bit 32; layout
    /// from bit 62 (1: 128-byte swizzle). A step of `n` bytes along `k` or of 1024 * `n` along the
    /// rows adds `n / 16` resp. `64 * n`.
    pub(crate) fn wgmma_descriptor(&'k self, address: I32<'k>) -> I64<'k> {
        self.wgmma_descriptor_at(address >> 4)
    }

    /// As [`Builder::wgmma_descriptor`], of the lower word alone: the address in 16 bytes, and steps
    /// from there. Added to that, in 32 bits, steps have no carry into the upper word to work out.
    pub(crate) fn wgmma_descriptor_at(&'k self, lower: I32<'k>) -> I64<'k> {
        const STRIDE: u64 = 8 * ROW_BYTES / 16;
        const SWIZZLE_128: u64 = 1;
        let layout = (STRIDE << 32 | SWIZZLE_128 << 62).cast_signed();
        lower.wide() + layout
    }

    /// As [`Builder::wgmma_descriptor`], of a matrix whose rows follow `k`: 64 columns in each row of
    /// 128 bytes, the next 64 columns `panel` bytes further ("leading dimension byte offset", from
    /// bit 16). A step of 8 along `k` adds 64.
    pub(crate) fn wgmma_descriptor_across(&'k self, address: I32<'k>, panel: u64) -> I64<'k> {
        self.wgmma_descriptor(address) + i64::from(leading(panel))
    }

    /// Orders accesses to the registers of `sums` before the products that follow, which must use
    /// those returned: `wgmma.fence` (PTX ISA 9.7.15.7.1).
    pub(crate) fn wgmma_fence(&'k self, sums: &[F32<'k>]) -> Vec<F32<'k>> {
        self.assembly_in_place("wgmma.fence.sync.aligned;", sums, "", &[])
    }

    /// Ends a group of products: `wgmma.commit_group` (PTX ISA 9.7.15.7.2).
    pub(crate) fn wgmma_commit(&'k self) {
        self.assembly("wgmma.commit_group.sync.aligned;", "~{memory}", &[], &[]);
    }

    /// Waits until at most `pending` groups have not ended:
    /// `wgmma.wait_group` (PTX ISA 9.7.15.7.3). The sums may be used from here on where this is 0.
    pub(crate) fn wgmma_wait(&'k self, pending: u32, sums: &[F32<'k>]) -> Vec<F32<'k>> {
        let text = format!("wgmma.wait_group.sync.aligned {pending};");
        self.assembly_in_place(&text, sums, "", &[])
    }

    /// `sums + a * wᵀ` over 32 bytes along `k`, both operands of type `dtype`; `a * wᵀ` in the
    /// registers of `sums` where `adds` is 0: `wgmma.mma_async` (PTX ISA 9.7.15.5.2).
    pub(crate) fn wgmma(
        &'k self,
        dtype: DType,
        columns: u64,
        [a, w]: [I64<'k>; 2],
        sums: &[F32<'k>],
        adds: I32<'k>,
    ) -> Vec<F32<'k>> {
        let form = Form { left: 1, constraints: "l,l,r".into(), transposed: false };
        let text = mma_async(dtype, columns, &form);
        self.assembly_in_place(&text, sums, &form.constraints, &[a.raw, w.raw, adds.raw])
    }

    /// `a * wᵀ` over 32 bytes along `k` in registers of its own; the same instruction.
    pub(crate) fn wgmma_anew(
        &'k self,
        dtype: DType,
        columns: u64,
        [a, w]: [I64<'k>; 2],
    ) -> Vec<F32<'k>> {
        let form = Form { left: 1, constraints: "l,l,r".into(), transposed: false };
        let count = (columns / 2) as usize;
        let constraints = format!("{}{},~{{memory}}", "=f,".repeat(count), form.constraints);
        let operands = [a.raw, w.raw, self.i32(0).raw];
        let text = mma_async(dtype, columns, &form);
        let results = self.assembly(&text, &constraints, &operands, &vec![self.types.f32; count]);
        results.into_iter().map(|raw| Val::new(self, raw)).collect()
    }

    /// `sums + a * w` for 16 rows of `w`, which a descriptor of
    /// [`Builder::wgmma_descriptor_across`] names; `a` in registers: elements `2 * (lane % 4) ..+ 2`
    /// along `k` of rows `lane / 4` and 8 below, then those 8 further along `k` (figure "WGMMA
    /// .m64nNk16 register fragment layout for matrix A"); the same instruction.
    pub(crate) fn wgmma_of_registers(
        &'k self,
        dtype: DType,
        columns: u64,
        a: [I32<'k>; 4],
        w: I64<'k>,
        sums: &[F32<'k>],
    ) -> Vec<F32<'k>> {
        let form = Form { left: 4, constraints: "r,r,r,r,l,r".into(), transposed: true };
        let operands: Vec<_> = a.iter().map(|a| a.raw).chain([w.raw, self.i32(1).raw]).collect();
        let text = mma_async(dtype, columns, &form);
        self.assembly_in_place(&text, sums, &form.constraints, &operands)
    }

    /// `sums + a * wᵀ` over 16 numbers along `k`, `a * wᵀ` in the registers of `sums` where `adds` is
    /// 0: `a` in registers as for [`Builder::wgmma_of_registers`], `w` as for [`Builder::wgmma`]; the
    /// same instruction.
    pub(crate) fn wgmma_of_registers_along(
        &'k self,
        dtype: DType,
        columns: u64,
        (a, w): ([I32<'k>; 4], I64<'k>),
        sums: &[F32<'k>],
        adds: I32<'k>,
    ) -> Vec<F32<'k>> {
        let form = Form { left: 4, constraints: "r,r,r,r,l,r".into(), transposed: false };
        let operands: Vec<_> = a.iter().map(|a| a.raw).chain([w.raw, adds.raw]).collect();
        let text = mma_async(dtype, columns, &form);
        self.assembly_in_place(&text, sums, &form.constraints, &operands)
    }

    /// `sums + a * w` for 16 rows of `w`, which a descriptor of
    /// [`Builder::wgmma_descriptor_across`] names; `a` in shared memory as for [`Builder::wgmma`];
    /// the same instruction.
    pub(crate) fn wgmma_across(
        &'k self,
        dtype: DType,
        columns: u64,
        [a, w]: [I64<'k>; 2],
        sums: &[F32<'k>],
    ) -> Vec<F32<'k>> {
        let form = Form { left: 1, constraints: "l,l,r".into(), transposed: true };
        let text = mma_async(dtype, columns, &form);
        let operands = [a.raw, w.raw, self.i32(1).raw];
        self.assembly_in_place(&text, sums, &form.constraints, &operands)
    }

    /// Stores 16 rows of 16 elements of 16 bits, held as [`Builder::wgmma_of_registers`] has them;
    /// lane `i` gives where the 16 bytes of row `i % 8` of matrix `i / 8` go, the matrices being
    /// those of the words in order: `stmatrix.x4` (PTX ISA 9.7.14.5.16).
    pub(crate) fn store_matrices(&'k self, to: I32<'k>, words: [I32<'k>; 4]) {
        let operands: Vec<_> = [to.raw].into_iter().chain(words.iter().map(|w| w.raw)).collect();
        let text = "stmatrix.sync.aligned.m8n8.x4.shared.b16 [$0], {$1, $2, $3, $4};";
        self.assembly(text, "r,r,r,r,r,~{memory}", &operands, &[]);
    }

    /// The same words, in registers that what comes before has filled: products that read them from
    /// there are ordered by a fence that follows.
    pub(crate) fn hold(&'k self, words: &[I32<'k>]) -> Vec<I32<'k>> {
        self.assembly_in_place("", words, "", &[])
    }
}

/// What a descriptor's lower word has beside the address, where panels are so many bytes apart.
pub(crate) fn leading(panel: u64) -> i32 {
    i32::try_from((panel / 16) << 16).unwrap_or_else(|e| bug(e))
}

/// The instruction: sums, the left operand, the descriptor of the right one, whether sums are kept.
fn mma_async(dtype: DType, columns: u64, form: &Form) -> String {
    let name = match dtype {
        DType::Bf16 => "bf16",
        DType::F16 => "f16",
        DType::F8e4m3 => "e4m3",
        DType::F8e5m2 => "e5m2",
        other => bug(format_args!("tensor cores do not multiply {other} here")),
    };
    let transposes = match (dtype.bytes(), form.left) {
        (2, 1) => format!(", 0, {}", u8::from(form.transposed)),
        (2, _) => format!(", {}", u8::from(form.transposed)),
        _ => String::new(),
    };
    let count = (columns / 2) as usize;
    let depth = DEPTH_BYTES / dtype.bytes();
    let list = |from: usize, count: usize| {
        let registers: Vec<String> = (from..from + count).map(|i| format!("${i}")).collect();
        format!("{{{}}}", registers.join(", "))
    };
    let left = if form.left == 1 { format!("${count}") } else { list(count, form.left) };
    let right = count + form.left;
    format!(
        "{{ .reg .pred p; setp.ne.b32 p, ${}, 0; \
         wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.f32.{name}.{name} {}, {left}, \
         ${right}, p, 1, 1{transposes}; }}",
        right + 1,
        list(0, count),
    )
}
