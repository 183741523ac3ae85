//! Where two runs differ.

use super::{Outcome, StepOutcome};
use crate::Phase;
use crate::session::Value;
use crate::weights::to_f64;
use moec_ir::DType;
use safetensors::Dtype;
use std::fmt;

/// The first element, in the order of computation, that is not the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Which step.
    pub phase: Phase,
    /// The function that returned it.
    pub function: String,
    /// The layer, where it is one of several.
    pub layer: Option<u64>,
    /// Which of the function's results.
    pub output: usize,
    /// Whose tokens.
    pub rank: usize,
    /// Which of the rank's tokens in the step.
    pub row: u64,
    /// Which element of the token.
    pub column: u64,
    /// The element and what it should be.
    pub values: (f64, f64),
    /// Elements of this value that differ, on all ranks.
    pub elements: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, function, rank, row, column, values: (got, want), elements, .. } = self;
        write!(f, "in {phase}, the result of `{function}`")?;
        if let Some(layer) = self.layer {
            write!(f, " of layer {layer}")?;
        }
        write!(f, ": rank {rank}, token {row}, element {column} is {got:e} and not {want:e}")?;
        let others = elements - 1;
        if others > 0 { write!(f, " (and {others} others of this result)") } else { Ok(()) }
    }
}

/// The first difference between two runs, if there is one. Bits are compared, so that a
/// not-a-number equals itself.
pub fn compare(got: &Outcome, want: &Outcome) -> Option<Difference> {
    got.steps.iter().zip(&want.steps).find_map(|(got, want)| compare_steps(got, want))
}

fn compare_steps(got: &StepOutcome, want: &StepOutcome) -> Option<Difference> {
    let values = got.values.first().map_or(0, Vec::len);
    for at in 0..values {
        let of_rank = |step: &StepOutcome, rank: usize| step.values.get(rank)?.get(at).cloned();
        let pairs = (0..got.values.len())
            .filter_map(|rank| Some((rank, of_rank(got, rank)?, of_rank(want, rank)?)));
        let mut first: Option<Difference> = None;
        for (rank, got_value, want_value) in pairs {
            let Some((at, count)) = differing(&got_value, &want_value) else { continue };
            let found = first.get_or_insert_with(|| {
                let width = got_value.width.max(1);
                Difference {
                    phase: got.phase,
                    function: got_value.function.clone(),
                    layer: got_value.layer,
                    output: got_value.output,
                    rank,
                    row: at / width,
                    column: at % width,
                    values: (element(&got_value, at), element(&want_value, at)),
                    elements: 0,
                }
            });
            found.elements += count;
        }
        if first.is_some() {
            return first;
        }
    }
    None
}

/// The first differing element and how many there are.
fn differing(got: &Value, want: &Value) -> Option<(u64, u64)> {
    let size = got.dtype.bytes() as usize;
    if (got.dtype, got.bytes.len()) != (want.dtype, want.bytes.len()) {
        return Some((0, 1));
    }
    let pairs = got.bytes.chunks(size).zip(want.bytes.chunks(size)).enumerate();
    let mut differ = pairs.filter(|(_, (got, want))| got != want).map(|(at, _)| at as u64);
    differ.next().map(|first| (first, 1 + differ.count() as u64))
}

fn element(value: &Value, at: u64) -> f64 {
    let dtype = match value.dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F8e4m3 => Dtype::F8_E4M3,
        DType::F8e5m2 => Dtype::F8_E5M2,
        DType::I32 => Dtype::I32,
    };
    let size = value.dtype.bytes() as usize;
    let bytes = value.bytes.get(at as usize * size..).and_then(|b| b.get(..size));
    bytes.and_then(|b| to_f64(b, dtype).first().copied()).unwrap_or(f64::NAN)
}

/// The median over tokens of the relative error (L2) of logits, over both steps; not a number
/// where any token's is not.
pub fn median_error(got: &Outcome, want: &Outcome, vocab: u64) -> f64 {
    let mut errors = Vec::new();
    for (got, want) in got.steps.iter().zip(&want.steps) {
        for (got, want) in got.logits.iter().zip(&want.logits) {
            let rows = got.chunks(vocab.max(1) as usize).zip(want.chunks(vocab.max(1) as usize));
            errors.extend(rows.map(|(got, want)| {
                let square = |x: f32| f64::from(x) * f64::from(x);
                let difference: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
                (difference / want.iter().map(|w| square(*w)).sum::<f64>()).sqrt()
            }));
        }
    }
    errors.sort_by(f64::total_cmp);
    // Not-a-numbers come last.
    match errors.last() {
        Some(last) if !last.is_nan() => errors[errors.len() / 2],
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(values: [&[f32]; 2]) -> Outcome {
        let value = |layer: u64, x: &[f32]| Value {
            function: "sparse".into(),
            layer: Some(layer),
            output: 0,
            dtype: DType::F32,
            width: 2,
            bytes: x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        let of_rank = |x: &[f32]| vec![value(0, &x[..2]), value(1, &x[2..])];
        let logits = values.iter().map(|x| x[2..].to_vec()).collect();
        let values = values.iter().map(|x| of_rank(x)).collect();
        Outcome { steps: vec![StepOutcome { phase: Phase::Decode, logits, values }] }
    }

    #[test]
    fn the_first_value_to_differ_is_named_not_the_first_rank() {
        let want = outcome([&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]]);
        assert_eq!(compare(&want, &want), None);
        let nan = outcome([&[1.0, f32::NAN, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]]);
        assert_eq!(compare(&nan, &nan), None);
        let got = outcome([&[1.0, 2.0, 3.0, 0.5], &[5.0, 6.5, 7.0, 9.0]]);
        let found = compare(&got, &want).unwrap();
        assert_eq!((found.rank, found.layer, found.row, found.column), (1, Some(0), 0, 1));
        assert_eq!((found.values, found.elements), ((6.5, 6.0), 1));
        let text = found.to_string();
        assert!(
            text.contains("`sparse` of layer 0: rank 1, token 0, element 1 is 6.5e0"),
            "{text}"
        );
    }

    #[test]
    fn errors_are_of_rows_and_not_a_number_is_no_agreement() {
        let want = outcome([&[0.0, 0.0, 3.0, 4.0], &[0.0, 0.0, 6.0, 8.0]]);
        let got = outcome([&[0.0, 0.0, 3.0, 4.0], &[0.0, 0.0, 6.0, 9.0]]);
        assert!((median_error(&got, &want, 2) - 0.1).abs() < 1e-9);
        let got = outcome([&[0.0, 0.0, f32::NAN, 4.0], &[0.0, 0.0, 6.0, 8.0]]);
        assert!(median_error(&got, &want, 2).is_nan());
    }
}
