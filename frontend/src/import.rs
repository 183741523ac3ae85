//! Hugging Face `config.json` to `.moe` text.
//!
//! Before: the text of a configuration of one of [`MODEL_TYPES`]. After: a model in the
//! canonical layout that computes what transformers' model of that type computes. Each field
//! that takes part in the mathematics is honoured or refused by name, and so is each field
//! that is not known; what a checkpoint holds is not looked at, except for the names of its
//! tensors where they are given.

mod config;
mod deepseek;
mod grouped;
mod layers;
mod positions;
mod quantized;
mod text;

use config::Config;
use moec_ir::Diagnostic;
pub use quantized::Fp8Recipe;
use std::collections::BTreeSet;

/// The values of `model_type` that can be imported.
pub(crate) const MODEL_TYPES: [&str; 4] = ["deepseek_v2", "deepseek_v3", "mixtral", "qwen3_moe"];

/// Writes a model of the language from a Hugging Face configuration.
///
/// `tensors` are the names of the checkpoint's tensors, where there is one: multi-token
/// prediction is written only if its tensors are there, and weights that have no scales beside
/// them are kept out of FP8. `fp8` says how a checkpoint in FP8 is to be computed; without it,
/// as DeepSeek does, but one that transformers 5 wrote as that does.
///
/// # Errors
/// E0501 (not JSON), E0502 (a field is missing or of the wrong kind), E0503 (another type of
/// model), E0504 (a value that cannot be computed), E0505 (a field that is not known). Spans
/// are of the configuration's text.
pub fn import(
    config_json: &str,
    tensors: Option<&BTreeSet<String>>,
    fp8: Option<Fp8Recipe>,
) -> Result<String, Vec<Diagnostic>> {
    let mut config = Config::read(config_json, fp8).map_err(|d| vec![d])?;
    let kind = config.text("model_type");
    let written = match kind.as_deref() {
        Some("deepseek_v2") => deepseek::version_2(&mut config),
        Some("deepseek_v3") => deepseek::version_3(&mut config, tensors),
        Some("mixtral") => grouped::mixtral(&mut config),
        Some("qwen3_moe") => grouped::qwen3(&mut config),
        Some(other) => {
            let known = MODEL_TYPES.map(|t| format!("`{t}`")).join(", ");
            let d =
                Diagnostic::error("E0503", format!("models of type `{other}` cannot be imported"));
            return Err(vec![
                config
                    .at(d, "model_type", "here")
                    .help(format!("known are {known}; others can be written in the language")),
            ]);
        }
        None => None,
    };
    let found = config.finish(written.is_some());
    if !found.is_empty() {
        return Err(found);
    }
    let written = written.unwrap_or_default();
    // The sizes of a configuration may contradict each other: the language knows.
    let checked = crate::parse(&written).and_then(|ast| crate::check(&ast));
    let model =
        checked.map_err(|found| found.into_iter().map(contradiction).collect::<Vec<_>>())?;
    let kept = tensors.map(|t| quantized::without_scales(&model, t)).unwrap_or_default();
    crate::format(&quantized::keep(&written, &kept))
}

/// A mistake in the text that was written, as one of the configuration.
fn contradiction(d: Diagnostic) -> Diagnostic {
    Diagnostic::error("E0504", format!("the sizes do not fit each other: {}", d.message))
        .help("compare the sizes in the configuration with those of the checkpoint's tensors")
}
