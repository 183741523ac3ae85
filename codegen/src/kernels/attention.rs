//! Causal attention with online softmax (Milakov and Gimelshein, arXiv 1805.02867): scores are
//! never stored. Heads that read the same keys and values are computed together (multi-query
//! and grouped-query attention; MLA after absorption, DeepSeek-V2 2.1.2).
//!
//! Of a packed cache (`moec_ir::graph::PackedRow`) the latent is e4m3 with scales.
//!
//! On tensor cores, where tensor copies can read the operands: `attention/latent.rs` for many heads
//! that share a latent in a paged cache, `attention/flash.rs` for many tokens otherwise. On CUDA
//! cores: `attention/decode.rs` for one token per sequence, `attention/prefill.rs` for many. All are
//! correct for any step; `attention/limits.rs` tells where sizes keep it from tensor cores. Keys of several sequences may lie anywhere among the rows of the cache; rows
//! that belong to no sequence of the step do no harm. `attention/merge.rs` brings chunks of keys
//! together.

mod decode;
mod flash;
mod latent;
mod limits;
mod merge;
mod prefill;
mod softmax;
mod tile;

pub(super) use merge::design as merge;

use super::{Design, Step};
use crate::builder::{Builder, F32, I32, Ptr};
use crate::tensor::Tensor;
use moec_ir::kernel::{KernelSpec, Quantized, View};
use moec_ir::plan::PAGE_ROWS;
use moec_ir::{DType, Diagnostic, Dim, Phase, Target};

/// What any variant computes.
#[derive(Clone, Debug)]
struct Problem {
    /// `[T, H, d]` each.
    q: Vec<View>,
    /// `[S, Hk, d]` each.
    k: Vec<View>,
    /// `[S, Hv, dv]`
    v: View,
    /// `[T, H, dv]`, or `[T, C, H, dv]`
    out: View,
    /// `[T, C, H]`, where chunks of keys have results of their own.
    log_sums: Option<View>,
    /// Factor on the scores, times log2(e): weights are powers of 2.
    scale: f32,
    heads: u64,
    /// Neighbouring heads that read the same keys and values.
    sharing: u64,
    /// Size of each part.
    depth: Vec<u64>,
    /// Size of a value.
    value: u64,
    /// Rows of a page, where keys and values lie in pages.
    page: Option<u64>,
    /// Whether values are the leading elements of the first part of the keys.
    values_in_keys: bool,
    /// The scales of values and of the first part of the keys, where these are quantised.
    quantized: Option<Quantized>,
}

/// Scores below this weigh nothing; finite, so that differences of maxima are never NaN.
const LOWEST: f32 = -1e38;

/// The design of a [`KernelSpec::Attention`].
pub(super) fn design(
    spec: &KernelSpec,
    step: Step,
    target: &Target,
) -> Result<Box<dyn Design>, Diagnostic> {
    let problem = Problem::new(spec).map_err(|why| {
        Diagnostic::error("E0902", format!("an attention kernel {why}")).help(
            "queries are `[T, H, d]`, keys `[S, Hk, d]` with as many parts, values \
             `[S, Hv, dv]`; `Hk` and `Hv` divide `H`",
        )
    })?;
    limits::check(&problem)?;
    if let Some(latent) = latent::Latent::new(&problem, target) {
        return Ok(Box::new(latent));
    }
    let mut limit = latent::Latent::limit(&problem, target);
    let design: Box<dyn Design> = match step.phase {
        _ if problem.log_sums.is_some() => Box::new(decode::Decode::new(problem, step.sizes)),
        Phase::Decode => Box::new(decode::Decode::new(problem, step.sizes)),
        Phase::Prefill => match flash::Flash::new(&problem, target) {
            Some(flash) => return Ok(Box::new(flash)),
            None => {
                limit = limit.or_else(|| flash::Flash::limit(&problem, target));
                Box::new(prefill::Prefill::new(problem))
            }
        },
    };
    Ok(match limit {
        Some(limit) => Box::new(limits::Slow { design, limit }),
        None => design,
    })
}

impl Problem {
    fn new(spec: &KernelSpec) -> Result<Self, String> {
        let KernelSpec::Attention {
            q,
            k,
            v,
            out,
            scale,
            page,
            values_in_keys,
            quantized,
            log_sums,
        } = spec
        else {
            return Err(format!("is asked for, not {}", spec.family()));
        };
        // Chunks lie between tokens and heads.
        let inner = usize::from(log_sums.is_some());
        let fixed = |view: &View, axis: usize| match view.shape.as_slice() {
            [_, _, _] => view.shape[axis].constant().filter(|&n| n > 0),
            _ => None,
        };
        let size = |view, axis| fixed(view, axis).ok_or_else(|| format!("has an operand {view}"));
        let size_of_out = |axis: usize| {
            let size = out.shape.get(axis + inner).and_then(Dim::constant).filter(|&n| n > 0);
            size.ok_or_else(|| format!("has results {out}"))
        };
        let (heads, value) = (size_of_out(1)?, size_of_out(2)?);
        if size(v, 2)? != value {
            return Err(format!("has values {v} and results {out}"));
        }
        if q.is_empty() || q.len() != k.len() {
            return Err(format!("has {} parts of queries and {} of keys", q.len(), k.len()));
        }
        let value_heads = size(v, 1)?;
        if heads % value_heads != 0 {
            return Err(format!("has {heads} heads and values {v}"));
        }
        let mut sharing = heads / value_heads;
        let mut depth = Vec::new();
        for (q, k) in q.iter().zip(k) {
            let (d, key_heads) = (size(q, 2)?, size(k, 1)?);
            if size(k, 2)? != d || size(q, 1)? != heads || heads % key_heads != 0 {
                return Err(format!("has queries {q} and keys {k} for {heads} heads"));
            }
            sharing = gcd(sharing, heads / key_heads);
            depth.push(d);
        }
        let in_e4m3 = k.iter().chain([v]).map(|view| view.dtype == DType::F8e4m3);
        let expected = |at: usize| quantized.is_some() && (at == 0 || at == k.len());
        if !in_e4m3.enumerate().all(|(at, is)| is == expected(at)) {
            return Err(format!("has keys {} and values {v}", list(k)));
        }
        if let Some(Quantized { scale, block, .. }) = quantized {
            let blocks = Dim::from(value.div_ceil((*block).max(1)));
            if *block == 0 || !values_in_keys || depth[0] != value || scale.shape[1] != blocks {
                return Err(format!("has values {v} in blocks of {block} and scales {scale}"));
            }
        }
        if let Some(page) = page.filter(|page| !page.is_power_of_two()) {
            return Err(format!("has pages of {page} rows, not a power of two"));
        }
        Ok(Self {
            q: q.to_vec(),
            k: k.to_vec(),
            v: v.clone(),
            out: out.clone(),
            log_sums: log_sums.clone(),
            page: *page,
            values_in_keys: *values_in_keys,
            quantized: quantized.clone(),
            scale: (scale.0 * std::f64::consts::LOG2_E) as f32,
            heads,
            sharing,
            depth,
            value,
        })
    }

    fn tokens(&self) -> &Dim {
        &self.out.shape[0]
    }

    /// Number of pointer parameters.
    fn operands(&self) -> usize {
        self.out_at() + 1 + usize::from(self.log_sums.is_some())
    }

    /// Which parameter the results are.
    fn out_at(&self) -> usize {
        2 * self.q.len()
            + 4
            + usize::from(self.page.is_some())
            + usize::from(self.quantized.is_some())
    }

    /// Chunks of a token's keys.
    fn chunks(&self) -> u64 {
        self.log_sums.as_ref().and_then(|view| view.shape[1].constant()).unwrap_or(1)
    }

    fn bind<'k>(&self, b: &'k Builder<'k>) -> Operands<'k> {
        let parts = self.q.len();
        let tensor = |at: usize, view: &View| Tensor::operand(b, at, view);
        let bind = |first: usize, views: &[View]| {
            let part = |(i, view)| tensor(first + i, view).read_only();
            views.iter().enumerate().map(part).collect()
        };
        let scales = self.quantized.as_ref().map(|quantized| Scales {
            tensor: tensor(2 * parts + 1, &quantized.scale).read_only(),
            block: quantized.block,
        });
        let before = 2 * parts + usize::from(scales.is_some());
        let integers = |at: usize| b.operand(before + at).read_only();
        Operands {
            q: bind(0, &self.q),
            k: bind(parts, &self.k),
            v: tensor(2 * parts, &self.v).read_only(),
            scales,
            positions: integers(1),
            sequences: integers(2),
            kv_start: integers(3),
            pages: self.page.map(|rows| (integers(4), rows)),
            out: tensor(self.out_at(), &self.out),
            log_sums: self.log_sums.as_ref().map(|view| tensor(self.out_at() + 1, view)),
        }
    }

    /// The head of keys or values that a head reads.
    fn head_of<'k>(&self, b: &'k Builder<'k>, view: &View, head: I32<'k>) -> I32<'k> {
        match view.shape[1].constant() {
            Some(heads) if heads > 1 => head / b.i32(self.heads / heads),
            _ => b.i32(0),
        }
    }
}

/// The operands of the kernel under construction.
#[derive(Clone)]
struct Operands<'k> {
    q: Vec<Tensor<'k>>,
    k: Vec<Tensor<'k>>,
    v: Tensor<'k>,
    scales: Option<Scales<'k>>,
    positions: Ptr<'k>,
    sequences: Ptr<'k>,
    kv_start: Ptr<'k>,
    /// The list of pages, and the rows of each.
    pages: Option<(Ptr<'k>, u64)>,
    out: Tensor<'k>,
    log_sums: Option<Tensor<'k>>,
}

impl<'k> Operands<'k> {
    /// The first row of the keys of a token, and how many there are.
    fn keys_of(&self, token: I32<'k>) -> (I32<'k>, I32<'k>) {
        let sequence = self.sequences.index(token, 4).load_scalar();
        let first = self.kv_start.index(sequence, 4).load_scalar();
        let position: I32<'k> = self.positions.index(token, 4).load_scalar();
        (first, position + 1)
    }

    /// Of the keys of a token, those of a chunk of `chunks`: whole pairs of pages, as a step of two
    /// warpgroups takes them. Late chunks may have none.
    fn keys_of_chunk(&self, token: I32<'k>, chunk: I32<'k>, chunks: u64) -> (I32<'k>, I32<'k>) {
        const STEP: i32 = 2 * PAGE_ROWS as i32;
        let (first, count) = self.keys_of(token);
        if chunks == 1 {
            return (first, count);
        }
        let each = count.div_ceil(STEP).div_ceil(chunks as i32) * STEP;
        let before = (chunk * each).min(count);
        (first + before, (count - before).min(each))
    }

    /// Where a result lies that a chunk has of a head.
    fn result(&self, [token, chunk, head]: [I32<'k>; 3]) -> Vec<I32<'k>> {
        match self.log_sums {
            Some(_) => vec![token, chunk, head],
            None => vec![token, head],
        }
    }

    /// Where a row of keys and values lies.
    fn row(&self, b: &'k Builder<'k>, row: I32<'k>) -> I32<'k> {
        let Some((pages, rows)) = self.pages else { return row };
        let page: I32<'k> = pages.index(row / b.i32(rows), 4).load_scalar();
        page * b.i32(rows) + row % b.i32(rows)
    }
}

/// The scales of quantised rows.
#[derive(Clone)]
struct Scales<'k> {
    tensor: Tensor<'k>,
    /// Elements that share one.
    block: u64,
}

impl<'k> Scales<'k> {
    /// Elements of a row from a column on, times their scales; their number is a power of two that
    /// divides the column. `row` is where scales of rows begin at 0.
    fn times(
        &self,
        b: &'k Builder<'k>,
        row: I32<'k>,
        column: I32<'k>,
        values: Vec<F32<'k>>,
    ) -> Vec<F32<'k>> {
        let of = |column: I32<'k>| self.tensor.load(&[row, column / b.i32(self.block)], 1)[0];
        if self.block.is_multiple_of(values.len() as u64) {
            let scale = of(column);
            return values.into_iter().map(|x| x * scale).collect();
        }
        (0..).zip(values).map(|(i, x)| x * of(column + b.i32(i as u64))).collect()
    }
}

fn list(views: &[View]) -> String {
    views.iter().map(View::to_string).collect::<Vec<_>>().join(", ")
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The greatest power of two that divides `n`, at most `most`.
fn power_of_two_in(n: u64, most: u64) -> u64 {
    (1 << n.trailing_zeros()).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moec_ir::{DType, Real, Sizes, Sym};

    fn refusal(heads: [u64; 3], depth: [u64; 2], value: [u64; 2]) -> Option<String> {
        let view = |heads: u64, d: u64| {
            View::dense(DType::Bf16, &[Sym::Tokens.into(), heads.into(), d.into()]).unwrap()
        };
        let sizes = Sizes { tokens: 1, past: 1, sequences: 1 };
        let target = Target::named("h800").unwrap();
        let refusals: Vec<_> = Phase::ALL
            .into_iter()
            .map(|phase| {
                let (q, k) = ([view(heads[0], depth[0])], [view(heads[1], depth[1])]);
                let (v, out) = (view(heads[2], value[0]), view(heads[0], value[1]));
                let step = Step { phase, sizes };
                let spec = KernelSpec::Attention {
                    q: q.to_vec(),
                    k: k.to_vec(),
                    v,
                    out,
                    scale: Real(1.0),
                    page: None,
                    values_in_keys: false,
                    quantized: None,
                    log_sums: None,
                };
                design(&spec, step, &target).err().map(|e| e.message)
            })
            .collect();
        assert_eq!(refusals[0], refusals[1]);
        refusals[0].clone()
    }

    #[test]
    fn shapes_that_contradict_each_other_are_refused() {
        assert_eq!(refusal([6, 3, 2], [48, 48], [20, 20]), None);
        let told = |why: Option<String>, what: &str| assert!(why.unwrap().contains(what), "{what}");
        told(refusal([6, 4, 2], [48, 48], [20, 20]), "for 6 heads");
        told(refusal([6, 3, 4], [48, 48], [20, 20]), "6 heads and values");
        told(refusal([6, 3, 2], [48, 40], [20, 20]), "queries");
        told(refusal([6, 3, 2], [48, 48], [20, 24]), "values");
        told(refusal([6, 0, 2], [48, 48], [20, 20]), "operand");
        told(refusal([6, 3, 2], [48, 48], [513, 513]), "registers hold");
    }

    /// What a user is told of attention of 16 heads, each of those of keys and values, in pages or
    /// not.
    fn told(phase: Phase, parts: &[u64], value: u64, in_keys: bool) -> Option<String> {
        let rows = |cached: bool| match cached {
            true => Dim::from(i32::MAX as u64),
            false => Sym::Past.into(),
        };
        let view = |rows: Dim, heads: u64, d: u64| {
            View::new(DType::Bf16, [rows, heads.into(), d.into()], [heads * d, d, 1])
        };
        let spec = KernelSpec::Attention {
            q: parts.iter().map(|&d| view(Sym::Tokens.into(), 16, d)).collect(),
            k: parts.iter().map(|&d| view(rows(in_keys), 1, d)).collect(),
            v: view(rows(in_keys), 1, value),
            out: view(Sym::Tokens.into(), 16, value),
            scale: Real(1.0),
            page: in_keys.then_some(PAGE_ROWS),
            values_in_keys: in_keys,
            quantized: None,
            log_sums: None,
        };
        let sizes = Sizes { tokens: 1, past: 1, sequences: 1 };
        let target = Target::named("h800").unwrap();
        let design = design(&spec, Step { phase, sizes }, &target).unwrap();
        design.warning().map(|warning| warning.message)
    }

    #[test]
    fn sizes_that_keep_attention_from_tensor_cores_are_told() {
        for phase in Phase::ALL {
            assert_eq!(told(phase, &[512, 64], 512, true), None);
            let large = told(phase, &[512, 128], 512, true).unwrap();
            assert!(large.contains("keys of 640 elements take 2"), "{large}");
            assert!(large.contains("of which a CTA has 232448"), "{large}");
        }
        // Many tokens are multiplied as with keys of their own, where so few elements fit.
        assert_eq!(told(Phase::Prefill, &[192, 64], 192, true), None);
        let odd = told(Phase::Decode, &[192, 64], 192, true).unwrap();
        assert!(odd.contains("no multiple of 128"), "{odd}");
        assert_eq!(told(Phase::Prefill, &[512], 256, false), None);
        let large = told(Phase::Prefill, &[576], 256, false).unwrap();
        assert!(large.contains("keys of 576 elements and values of 256 take"), "{large}");
        let wide = told(Phase::Prefill, &[256], 264, false).unwrap();
        assert!(wide.contains("sums of 256 fit registers"), "{wide}");
        // One token at a time they do not multiply matrices.
        assert_eq!(told(Phase::Decode, &[576], 256, false), None);
    }
}
