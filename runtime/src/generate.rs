//! Continuing prompts.

use crate::engine::{Engine, Rows, too_long};
use crate::sampling::{Sampler, Sampling};
use crate::{Phase, Result, Tokenizer, fail};
use moec_ir::Diagnostic;
use std::collections::BTreeSet;
use std::path::Path;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Most tokens that are added to each prompt.
    pub max_new_tokens: u64,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens after which a sequence ends.
    pub stop: BTreeSet<u32>,
}

/// Continues prompts together, as one batch. Returns the new tokens of each, a stop token
/// included; `on_token` is told of each token as it comes, with the index of its prompt.
///
/// # Errors
/// E1201 where a prompt and its new tokens exceed the context, and what the engine returns.
pub fn generate(
    engine: &mut dyn Engine,
    prompts: &[Vec<u32>],
    options: &Options,
    on_token: &mut dyn FnMut(usize, u32) -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    let mut generated = vec![Vec::new(); prompts.len()];
    if options.max_new_tokens == 0 || prompts.is_empty() {
        return Ok(generated);
    }
    let (mut samplers, mut sequences) = (Vec::new(), Vec::new());
    for (i, prompt) in prompts.iter().enumerate() {
        samplers.push(Sampler::new(options.sampling, i as u64)?);
        // The last token is never fed back.
        let capacity = (prompt.len() as u64).saturating_add(options.max_new_tokens - 1);
        if capacity > engine.context() {
            return too_long(capacity, engine.context(), "the model's context is");
        }
        sequences.push(engine.open(capacity)?);
    }
    let mut phase = Phase::Prefill;
    let mut active: Vec<(usize, Vec<u32>)> = prompts.iter().cloned().enumerate().collect();
    while !active.is_empty() {
        let batch: Vec<_> =
            active.iter().map(|(i, tokens)| (sequences[*i], tokens.as_slice())).collect();
        let logits = engine.step(phase, &batch, Rows::Last)?;
        let mut next = Vec::new();
        for ((i, _), logits) in active.into_iter().zip(logits) {
            let id = samplers[i].choose(&logits)?;
            on_token(i, id)?;
            generated[i].push(id);
            let full = generated[i].len() as u64 >= options.max_new_tokens;
            if !full && !options.stop.contains(&id) {
                next.push((i, vec![id]));
            }
        }
        (active, phase) = (next, Phase::Decode);
    }
    for sequence in sequences {
        engine.close(sequence)?;
    }
    Ok(generated)
}

/// The end-of-text tokens of a checkpoint: `eos_token_id` (a number or a list) of its
/// `generation_config.json`; else, where it has a tokenizer, of its `config.json`, whose value
/// may be no more than a default of the library that wrote it. None where neither says.
///
/// # Errors
/// E0704 where a file is there but unreadable.
pub fn stop_tokens(folder: &Path) -> Result<BTreeSet<u32>> {
    let files = ["generation_config.json", "config.json"];
    let believed = if Tokenizer::is_in(folder) { &files[..] } else { &files[..1] };
    for name in believed {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let bad = |why: String| {
            let message = format!("`{}` cannot be used: {why}", path.display());
            vec![Diagnostic::error("E0704", message)]
        };
        let text = std::fs::read_to_string(&path).map_err(|e| bad(e.to_string()))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| bad(format!("it is not JSON: {e}")))?;
        let ids = match value.get("eos_token_id") {
            None | Some(serde_json::Value::Null) => continue,
            Some(serde_json::Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        let id = |v: &serde_json::Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let Some(ids) = ids.iter().map(id).collect::<Option<BTreeSet<u32>>>() else {
            return fail(bad("`eos_token_id` is not a token id".into()).remove(0));
        };
        return Ok(ids);
    }
    Ok(BTreeSet::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_config_comes_first_and_a_bare_config_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let stops = || stop_tokens(folder.path()).map(|s| s.into_iter().collect::<Vec<_>>());
        write("config.json", r#"{"eos_token_id": 1}"#);
        assert_eq!(stops(), Ok(vec![]));
        write("tokenizer.json", "{}");
        assert_eq!(stops(), Ok(vec![1]));
        write("generation_config.json", r#"{"eos_token_id": [7, 5]}"#);
        assert_eq!(stops(), Ok(vec![5, 7]));
        write("generation_config.json", r#"{"eos_token_id": "end"}"#);
        assert_eq!(stops().unwrap_err()[0].code, "E0704");
    }
}
