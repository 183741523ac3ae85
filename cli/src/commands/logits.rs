//! `moec logits`.

use crate::args::LogitsArgs;
use crate::failure::Failure;
use crate::model::{Job, with_engine};
use crate::output;
use moec_ir::Phase;
use moec_runtime::Rows;
use moec_runtime::weights::tensor_from_file;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::path::Path;

/// Token ids of equally long sequences.
pub(super) struct Ids {
    /// Whether the file has an axis of sequences.
    batched: bool,
    pub(super) sequences: Vec<Vec<u32>>,
}

/// Computes logits in one prefill of all sequences.
pub(crate) fn logits(args: &LogitsArgs) -> Result<(), Failure> {
    let ids = read_ids(&args.ids)?;
    let job = Job {
        phases: &[Phase::Prefill],
        sequences: ids.sequences.len() as u64,
        length: ids.sequences.first().map_or(0, Vec::len) as u64,
    };
    let (rows, vocab) = with_engine(&args.run, &job, |engine| {
        let mut batch = Vec::new();
        for tokens in &ids.sequences {
            batch.push((engine.open(tokens.len() as u64)?, tokens.as_slice()));
        }
        Ok((engine.step(Phase::Prefill, &batch, Rows::All)?, engine.vocab() as usize))
    })?;
    let bytes: Vec<u8> = rows.iter().flatten().flat_map(|l| l.to_le_bytes()).collect();
    let length = ids.sequences.first().map_or(0, Vec::len);
    let mut shape = vec![ids.sequences.len(), length, vocab];
    if !ids.batched {
        shape.remove(0);
    }
    let unwritable = |e: safetensors::SafeTensorError| Failure::Message(format!("logits: {e}"));
    let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(unwritable)?;
    let file = safetensors::serialize([("logits", view)], None).map_err(unwritable)?;
    output::write_to(Some(&args.output), &file)
}

/// Reads the tensor `input_ids`.
pub(super) fn read_ids(path: &Path) -> Result<Ids, Failure> {
    let (dtype, shape, bytes) = tensor_from_file(path, "input_ids")?;
    let wrong =
        |why: String| Failure::Message(format!("`input_ids` in `{}` {why}", path.display()));
    let ids: Vec<i64> = match dtype {
        Dtype::I32 => bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
        Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        other => return Err(wrong(format!("holds {other}, not int32 or int64"))),
    };
    let (batched, length) = match shape.as_slice() {
        [length] => (false, *length),
        [_, length] => (true, *length),
        other => return Err(wrong(format!("has shape {other:?}, not [B, S] or [S]"))),
    };
    if ids.is_empty() {
        return Err(wrong(format!("is empty: its shape is {shape:?}")));
    }
    let ids: Vec<u32> = ids
        .into_iter()
        .map(|id| u32::try_from(id).map_err(|_| wrong(format!("holds {id}, which is no token id"))))
        .collect::<Result<_, _>>()?;
    Ok(Ids { batched, sequences: ids.chunks(length as usize).map(<[u32]>::to_vec).collect() })
}
