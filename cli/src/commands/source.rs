//! `moec check` and `moec fmt`.

use crate::args::{CheckArgs, FmtArgs};
use crate::failure::{Failure, Source, tell};
use crate::output;

/// Checks a file; prints a line where all is well.
pub(crate) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let source = Source::read(&args.model)?;
    let checked = moec_frontend::parse(&source.text).and_then(|ast| moec_frontend::check(&ast));
    let model = checked.map_err(|d| source.failure(d))?;
    tell(&model.warnings, Some(&source));
    let layers = model.graph.entry("main").map_or(0, |e| e.steps.len());
    let functions = model.graph.functions.len();
    let line = format!(
        "{}: `{}` is well formed: {functions} functions, called {layers} times\n",
        source.name, model.graph.name
    );
    output::write(line.as_bytes())
}

/// Formats files in place, or tells which are not formatted. Every file is looked at.
pub(crate) fn fmt(args: &FmtArgs) -> Result<(), Failure> {
    let mut wrong = false;
    for path in &args.models {
        let source = Source::read(path)?;
        match moec_frontend::format(&source.text) {
            Err(diagnostics) => {
                tell(&diagnostics, Some(&source));
                wrong = true;
            }
            Ok(text) if text == source.text => {}
            Ok(_) if args.check => {
                eprintln!("{} is not formatted: `moec fmt {0}`", source.name);
                wrong = true;
            }
            Ok(text) => output::write_to(Some(path), text.as_bytes())?,
        }
    }
    if wrong { Err(Failure::Told) } else { Ok(()) }
}
