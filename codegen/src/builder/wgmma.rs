//! Matrix products of a warpgroup, asynchronous, operands in shared memory (PTX ISA 9.7.15).
//!
//! A product of 64 rows by `columns` leaves in a thread `columns / 2` sums: number `i` is that of
//! row `16 * (warp % 4) + lane / 4 + 8 * (i / 2 % 2)` and column
//! `8 * (i / 4) + 2 * (lane % 4) + i % 2` (PTX ISA 9.7.15.5.1, figure "WGMMA .m64nNk16 register
//! fragment layout for accumulator matrix D").

use super::{Builder, F32, I32, I64, bug};
use moec_ir::DType;

/// Rows of a product.
pub(crate) const ROWS: u64 = 64;
/// Bytes along `k` of one product's operands.
pub(crate) const DEPTH_BYTES: u64 = 32;
/// Bytes of a row of an operand in shared memory, and within which chunks are permuted.
pub(crate) const ROW_BYTES: u64 = 128;

impl<'k> Builder<'k> {
    /// The descriptor of a matrix in shared memory, `k` innermost in rows of 128 bytes with the
    /// 128-byte swizzle, at a multiple of 1024 (PTX ISA 9.7.15.5.1.2, "Matrix Descriptor Format"):
    /// the address in 16 bytes; stride between groups of 8 rows, in 16 bytes, from bit 32; layout
    /// from bit 62 (1: 128-byte swizzle). A step of `n` bytes along `k` or of 1024 * `n` along the
    /// rows adds `n / 16` resp. `64 * n`.
    pub(crate) fn wgmma_descriptor(&'k self, address: I32<'k>) -> I64<'k> {
        const STRIDE: u64 = 8 * ROW_BYTES / 16;
        const SWIZZLE_128: u64 = 1;
        let layout = (STRIDE << 32 | SWIZZLE_128 << 62).cast_signed();
        (address >> 4).wide() + layout
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
        let (name, transposes) = match dtype {
            DType::Bf16 => ("bf16", ", 0, 0"),
            DType::F16 => ("f16", ", 0, 0"),
            DType::F8e4m3 => ("e4m3", ""),
            DType::F8e5m2 => ("e5m2", ""),
            other => bug(format_args!("tensor cores do not multiply {other} here")),
        };
        let count = sums.len();
        let depth = DEPTH_BYTES / dtype.bytes();
        let registers: Vec<String> = (0..count).map(|i| format!("${i}")).collect();
        let text = format!(
            "{{ .reg .pred p; setp.ne.b32 p, ${}, 0; \
             wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.f32.{name}.{name} {{{}}}, \
             ${count}, ${}, p, 1, 1{transposes}; }}",
            count + 2,
            registers.join(", "),
            count + 1,
        );
        self.assembly_in_place(&text, sums, "l,l,r", &[a.raw, w.raw, adds.raw])
    }
}
