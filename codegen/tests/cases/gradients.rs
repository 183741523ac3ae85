//! Gradients of weights.

use super::{Case, t};
use moec_ir::DType::{F8e4m3, F32};
use moec_ir::Dim;
use moec_ir::kernel::{KernelSpec, View};

/// Experts, rows and columns of the gradient, tokens at most.
fn case(name: &'static str, grouped: bool, sizes: [u64; 4], tokens: u64) -> Case {
    let [e, m, n, most] = sizes;
    let factor = |rows: u64| View::new(F8e4m3, [rows.into(), t()], [most, 1]);
    let scale = |rows: u64| View::new(F32, [rows.into(), t()], [1, rows.next_multiple_of(4)]);
    let spec = KernelSpec::WeightGradient {
        dy: factor(m),
        dy_scale: scale(m),
        x: factor(n),
        x_scale: scale(n),
        dw: View::new(F32, [e, m, n].map(Dim::from), [m * n, n, 1]),
        grouped,
        block: 128,
        promote_every: 128,
    };
    Case { name, spec, tokens }
}

pub(crate) fn weight_gradients() -> Vec<Case> {
    vec![
        case("gradient v3 up", false, [1, 4096, 7168, 4096], 4096),
        case("gradient v3 up, experts", true, [8, 4096, 7168, 36864], 36864),
        case("gradient v3 down, experts", true, [8, 7168, 2048, 36864], 36864),
        case("gradient one tile", false, [1, 128, 128, 2048], 256),
        case("gradient ends", false, [1, 200, 136, 2048], 300),
        case("gradient odd", false, [1, 77, 35, 2048], 129),
        case("gradient many steps", false, [1, 64, 48, 2048], 2000),
        case("gradient experts", true, [4, 128, 144, 2048], 1024),
        case("gradient experts ends", true, [5, 72, 130, 2048], 1280),
        case("gradient many experts", true, [20, 24, 40, 2560], 2560),
        case("gradient experts odd", true, [3, 130, 17, 2048], 1100),
    ]
}
