//! Writes `plan.json` and `kernels.ptx` of DeepSeek-V3's products and attention in the forms that no
//! plan of its inference has, for the report of machine code: `forms FOLDER`.

use moec_codegen::{Options, generate};
use moec_ir::DType::{self, Bf16, F8e4m3, F32};
use moec_ir::kernel::{KernelSpec, Quantized, View};
use moec_ir::plan::{FORMAT, Kernel, Launch, PAGE_ROWS, PlanFunction};
use moec_ir::{Dim, Phase, Plan, ScaleFormat, Sizes, Sym, Target};
use std::path::PathBuf;

/// Experts of a GPU, and rows that each has a place for.
const EXPERTS: u64 = 8;
const CAPACITY: u64 = 4096;
/// Columns and depth of an expert's two products.
const PRODUCTS: [[u64; 2]; 2] = [[4096, 7168], [7168, 2048]];

fn dense(dtype: DType, shape: &[u64]) -> Result<View, String> {
    let shape: Vec<Dim> = shape.iter().map(|&n| n.into()).collect();
    View::dense(dtype, &shape).ok_or_else(|| format!("{shape:?} is not dense"))
}

/// Rows in places of fixed capacity, about `expected` of each expert.
fn masked([n, k]: [u64; 2], expected: u64) -> Result<KernelSpec, String> {
    let (blocks_down, blocks) = (n.div_ceil(128), k.div_ceil(128));
    Ok(KernelSpec::ScaledMaskedGemm {
        a: dense(F8e4m3, &[EXPERTS, CAPACITY, k])?,
        a_scale: dense(F32, &[EXPERTS, CAPACITY, blocks])?,
        w: dense(F8e4m3, &[EXPERTS, n, k])?,
        w_scale: dense(F32, &[EXPERTS, blocks_down, blocks])?,
        c: dense(Bf16, &[EXPERTS, CAPACITY, n])?,
        expected,
        block: [128, 128],
        promote_every: 128,
    })
}

/// Gradients of an expert's weights, for the tokens of each or of all.
fn gradient([n, k]: [u64; 2], experts: u64) -> Result<KernelSpec, String> {
    let tokens = experts * CAPACITY;
    let turned = |n: u64| View::new(F32, [n, tokens / 128].map(Dim::from), [1, n]);
    Ok(KernelSpec::WeightGradient {
        dy: dense(F8e4m3, &[n, tokens])?,
        dy_scale: turned(n),
        x: dense(F8e4m3, &[k, tokens])?,
        x_scale: turned(k),
        dw: dense(F32, &[experts, n, k])?,
        grouped: experts > 1,
        block: 128,
        promote_every: 128,
    })
}

/// Absorbed attention of 128 heads to a packed cache, whose rows have 656 bytes.
fn packed_attention(format: ScaleFormat) -> KernelSpec {
    const ROW: u64 = 656;
    let rows = Dim::from(i32::MAX as u64);
    let cached = |dtype: DType, len: u64| {
        View::new(dtype, [rows.clone(), 1.into(), len.into()], [ROW / dtype.bytes(), 0, 1])
    };
    let of_heads = |len: u64| {
        View::new(Bf16, [Dim::from(Sym::Tokens), 128.into(), len.into()], [128 * len, len, 1])
    };
    let scale = View::new(F32, [rows.clone(), 4.into()], [ROW / 4, 1]);
    KernelSpec::Attention {
        q: vec![of_heads(512), of_heads(64)],
        k: vec![cached(F8e4m3, 512), cached(Bf16, 64)],
        v: cached(F8e4m3, 512),
        out: of_heads(512),
        scale: 0.135.into(),
        page: Some(PAGE_ROWS),
        values_in_keys: true,
        quantized: Some(Quantized { scale, block: 128, format }),
        log_sums: None,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder: PathBuf = std::env::args().nth(1).ok_or("usage: forms FOLDER")?.into();
    let mut specs = vec![];
    for expected in [1024, 64] {
        for product in PRODUCTS {
            specs.push((format!("{expected} rows of each expert"), masked(product, expected)?));
        }
    }
    for product in PRODUCTS {
        specs.push(("gradient of weights".into(), gradient(product, 1)?));
        specs.push(("gradients of each expert's weights".into(), gradient(product, EXPERTS)?));
    }
    for (what, format) in [("float32", ScaleFormat::F32), ("powers of two", ScaleFormat::Ue8m0)] {
        let what = format!("attention to an FP8 cache, scales {what}");
        specs.push((what, packed_attention(format)));
    }
    let launches = specs.iter().enumerate().map(|(kernel, (what, _))| Launch {
        kernel,
        operands: vec![],
        of_group: false,
        computes: what.clone(),
    });
    let function = PlanFunction {
        name: "forms".into(),
        weights: vec![],
        caches: vec![],
        tables: vec![],
        workspace: vec![],
        launches: launches.collect(),
    };
    let kernels = (0..).zip(&specs).map(|(i, (_, spec))| Kernel {
        name: format!("{}_{i}", spec.family()),
        spec: spec.clone(),
        geometry: None,
        reads: vec![],
    });
    let plan = Plan {
        format: FORMAT,
        model: "forms".into(),
        context: CAPACITY,
        target: Target::named("h800").ok_or("no target")?,
        phase: Phase::Prefill,
        ranks: None,
        symmetric: vec![],
        workload: Sizes { tokens: CAPACITY, past: CAPACITY, sequences: 1 },
        kernels: kernels.collect(),
        functions: vec![function],
        entries: vec![],
    };
    let made = generate(&plan, Options::default())
        .map_err(|mistakes| mistakes.iter().map(|d| d.render("", "", false)).collect::<String>())?;
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("plan.json"), serde_json::to_string(&made.plan)?)?;
    std::fs::write(folder.join("kernels.ptx"), made.ptx)?;
    Ok(())
}
