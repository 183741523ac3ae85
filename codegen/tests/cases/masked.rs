//! One matrix per expert, rows in places of fixed capacity.

use super::scaled::{row_scales, weights};
use super::{Case, dense, t};
use moec_ir::DType::{self, Bf16, F8e4m3, F16, F32};
use moec_ir::Dim;
use moec_ir::kernel::{KernelSpec, View};

/// The step's tokens are the capacity where none is given; there are at most so many.
const MOST: u64 = 128;

fn rows(dtype: DType, experts: u64, capacity: Option<u64>, columns: u64) -> View {
    let shape = [experts.into(), capacity.map_or(t(), Dim::from), columns.into()];
    View::new(dtype, shape, [capacity.unwrap_or(MOST) * columns, columns, 1])
}

/// Experts, capacity, columns, depth, expected rows.
fn scaled(name: &'static str, sizes: [u64; 5], to: DType) -> Case {
    let [e, capacity, n, k, expected] = sizes;
    let (w, w_scale) = weights(e, n, k, [128, 128], 0);
    let spec = KernelSpec::ScaledMaskedGemm {
        a: rows(F8e4m3, e, Some(capacity), k),
        a_scale: row_scales(&[e.into(), capacity.into()], k, 128),
        w,
        w_scale,
        c: rows(to, e, Some(capacity), n),
        expected,
        block: [128, 128],
        promote_every: 128,
    };
    Case { name, spec, tokens: 16 }
}

pub(crate) fn scaled_masked() -> Vec<Case> {
    let mut each_number = scaled("fp8 masked summed one by one", [2, 40, 96, 256, 20], F32);
    if let KernelSpec::ScaledMaskedGemm { promote_every, .. } = &mut each_number.spec {
        *promote_every = 1;
    }
    vec![
        scaled("fp8 masked hopper v3 up", [16, 4096, 4096, 7168, 1024], Bf16),
        scaled("fp8 masked hopper v3 down", [16, 4096, 7168, 2048, 1024], Bf16),
        scaled("fp8 masked hopper v3 up, 64 rows", [16, 4096, 4096, 7168, 64], Bf16),
        scaled("fp8 masked hopper v3 down, 64 rows", [16, 4096, 7168, 2048, 64], Bf16),
        scaled("fp8 masked hopper one tile", [4, 64, 128, 256, 64], Bf16),
        scaled("fp8 masked hopper many steps", [3, 48, 64, 2064, 30], Bf16),
        scaled("fp8 masked hopper ends", [5, 100, 136, 304, 50], F32),
        scaled("fp8 masked hopper many experts", [40, 16, 32, 128, 4], Bf16),
        scaled("fp8 masked hopper one expert", [1, 300, 144, 512, 256], F32),
        scaled("fp8 masked hopper large tiles", [2, 260, 264, 160, 2000], Bf16),
        scaled("fp8 masked odd", [3, 30, 37, 33, 20], Bf16),
        scaled("fp8 masked odd, few rows", [3, 10, 37, 33, 4], F32),
        each_number,
    ]
}

pub(crate) fn masked() -> Vec<Case> {
    let case = |name, e: u64, capacity: Option<u64>, [n, k, expected]: [u64; 3], dtype, to| {
        let spec = KernelSpec::MaskedGemm {
            a: rows(dtype, e, capacity, k),
            w: dense(dtype, &[Some(e), Some(n), Some(k)]),
            c: rows(to, e, capacity, n),
            expected,
        };
        Case { name, spec, tokens: 70 }
    };
    vec![
        case("masked hopper v3", 16, Some(4096), [4096, 7168, 64], Bf16, Bf16),
        case("masked hopper tokens", 5, None, [96, 200, 64], Bf16, Bf16),
        case("masked hopper many steps", 3, Some(40), [40, 1096, 40], F16, F16),
        case("masked hopper many experts", 37, Some(24), [24, 136, 8], Bf16, F32),
        case("masked hopper odd columns", 4, Some(130), [33, 64, 128], Bf16, Bf16),
        case("masked f32", 3, Some(20), [24, 40, 16], F32, F32),
        case("masked odd", 4, None, [37, 21, 3], Bf16, Bf16),
    ]
}
