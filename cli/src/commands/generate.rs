//! `moec generate`.

use crate::args::{Format, GenerateArgs};
use crate::failure::Failure;
use crate::model::{Job, with_engine};
use crate::output;
use moec_ir::{Diagnostic, Phase};
use moec_runtime::generate::{Options, stop_tokens};
use moec_runtime::tokenizer::TextStream;
use moec_runtime::{Sampler, Sampling, Tokenizer};
use std::time::Instant;

/// Continues a prompt and prints what comes.
pub(crate) fn generate(args: &GenerateArgs) -> Result<(), Failure> {
    let folder = &args.run.weights;
    // Without one, ids serve; a prompt of text cannot do without.
    let tokenizer = if Tokenizer::is_in(folder) || args.prompt.is_some() {
        Some(Tokenizer::open(folder)?)
    } else {
        None
    };
    let prompt = match (&args.prompt, &tokenizer, &args.prompt_ids) {
        (Some(text), Some(tokenizer), _) => tokenizer.encode(text)?,
        (_, _, ids) => ids.clone().unwrap_or_default(),
    };
    if prompt.is_empty() {
        let message = "the prompt is empty".to_owned();
        let help = "give at least one token, such as the model's begin-of-text token";
        return Err(vec![Diagnostic::error("E1204", message).help(help)].into());
    }
    let options = Options {
        max_new_tokens: args.max_new_tokens,
        sampling: Sampling {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            seed: args.seed,
        },
        stop: if args.ignore_eos { Default::default() } else { stop_tokens(folder)? },
    };
    // Settings out of range are told before any work is done.
    Sampler::new(options.sampling, 0)?;
    let length = (prompt.len() as u64).saturating_add(args.max_new_tokens);
    let job = Job { phases: &Phase::ALL, sequences: 1, length };
    let ids = with_engine(&args.run, &job, |engine| {
        let mut printer = Printer::new(args, tokenizer.as_ref(), &prompt)?;
        let begin = Instant::now();
        let mut broken = None;
        let prompts = std::slice::from_ref(&prompt);
        let ids = moec_runtime::generate(engine, prompts, &options, &mut |_, id| {
            printer.push(id).map_err(|failure| {
                broken = Some(failure);
                vec![]
            })
        });
        if let Some(failure) = broken {
            return Err(failure);
        }
        let ids = ids?.remove(0);
        printer.end()?;
        let seconds = begin.elapsed().as_secs_f64();
        tracing::info!(
            "{} tokens in {seconds:.2} s, {:.1} a second",
            ids.len(),
            ids.len() as f64 / seconds
        );
        Ok(ids)
    })?;
    if args.format == Format::Json {
        let text = tokenizer.map(|t| t.decode(&ids)).transpose()?;
        let line = serde_json::json!({ "ids": ids, "text": text }).to_string() + "\n";
        output::write(line.as_bytes())?;
    }
    Ok(())
}

/// Prints tokens as they come.
enum Printer<'a> {
    Text(TextStream<'a>),
    Ids { first: bool },
    Nothing,
}

impl<'a> Printer<'a> {
    /// Begins with the prompt.
    fn new(
        args: &GenerateArgs,
        tokenizer: Option<&'a Tokenizer>,
        prompt: &[u32],
    ) -> Result<Self, Failure> {
        match (args.format, tokenizer) {
            (Format::Json, _) => Ok(Self::Nothing),
            (Format::Text, None) => Ok(Self::Ids { first: true }),
            (Format::Text, Some(tokenizer)) => {
                let mut stream = tokenizer.stream();
                for id in prompt {
                    output::write(stream.push(*id)?.as_bytes())?;
                }
                Ok(Self::Text(stream))
            }
        }
    }

    fn push(&mut self, id: u32) -> Result<(), Failure> {
        match self {
            Self::Text(stream) => output::write(stream.push(id)?.as_bytes()),
            Self::Ids { first } => {
                let separator = if std::mem::take(first) { "" } else { " " };
                output::write(format!("{separator}{id}").as_bytes())
            }
            Self::Nothing => Ok(()),
        }
    }

    fn end(&self) -> Result<(), Failure> {
        if matches!(self, Self::Nothing) { Ok(()) } else { output::write(b"\n") }
    }
}
