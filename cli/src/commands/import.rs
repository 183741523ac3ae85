//! `moec import`.

use crate::args::{Fp8, ImportArgs};
use crate::failure::{Failure, Source};
use crate::output;
use moec_frontend::Fp8Recipe;
use moec_runtime::weights::tensor_names;

/// Writes the `.moe` file of a checkpoint.
pub(crate) fn import(args: &ImportArgs) -> Result<(), Failure> {
    let is_folder = args.dir.is_dir();
    let path = if is_folder { args.dir.join("config.json") } else { args.dir.clone() };
    let config = Source::read(&path)?;
    let tensors = if is_folder { tensor_names(&args.dir)? } else { None };
    let text = moec_frontend::import(&config.text, tensors.as_ref(), args.fp8.map(recipe));
    let text = text.map_err(|d| config.failure(d))?;
    output::write_to(args.output.as_deref(), text.as_bytes())
}

fn recipe(fp8: Fp8) -> Fp8Recipe {
    match fp8 {
        Fp8::Deepseek => Fp8Recipe::DeepSeek,
        Fp8::Transformers => Fp8Recipe::Transformers,
    }
}
