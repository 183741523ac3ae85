//! `emulate launch.json -o OUT.safetensors [--seed N]`: runs a described launch and writes its
//! buffers; with a seed by a random schedule.

use std::path::Path;
use std::process::ExitCode;

use moec_emulator::Schedule;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = args.iter().map(String::as_str).collect();
    if words.first() == Some(&"emulate") {
        words.remove(0);
    }
    let parsed = match words.as_slice() {
        [launch, "-o", out] => Some((launch, out, None)),
        [launch, "-o", out, "--seed", seed] => {
            seed.parse().ok().map(|seed| (launch, out, Some(seed)))
        }
        _ => None,
    };
    let Some((launch, out, seed)) = parsed else {
        eprintln!("usage: emulate launch.json -o OUT.safetensors [--seed N]");
        return ExitCode::from(2);
    };
    let schedule = seed.map(Schedule::Seeded);
    let done = moec_emulator::emulate_scheduled(Path::new(launch), schedule).and_then(|outputs| {
        eprint!("{}", outputs.report.printed);
        let bytes = outputs.to_safetensors()?;
        std::fs::write(out, bytes).unwrap_or_else(|e| panic!("{out}: {e}"));
        Ok(())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
