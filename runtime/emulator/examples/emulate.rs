//! `emulate launch.json -o OUT.safetensors`: runs a described launch and writes its buffers.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (["emulate", launch, "-o", out] | [launch, "-o", out]) = words.as_slice() else {
        eprintln!("usage: emulate launch.json -o OUT.safetensors");
        return ExitCode::from(2);
    };
    let done = moec_emulator::emulate(Path::new(launch)).and_then(|outputs| {
        eprint!("{}", outputs.report.printed);
        outputs.write(Path::new(out))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
