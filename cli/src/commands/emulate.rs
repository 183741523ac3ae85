//! `moec emulate`.

use crate::args::EmulateArgs;
use crate::failure::Failure;
use crate::output;

/// Runs a described launch and writes its buffers.
pub(crate) fn emulate(args: &EmulateArgs) -> Result<(), Failure> {
    let failed = |e: moec_emulator::Error| Failure::Message(e.to_string());
    let outputs = moec_emulator::emulate(&args.launch).map_err(failed)?;
    output::write(outputs.report.printed.as_bytes())?;
    if let Some(path) = &args.output {
        output::write_to(Some(path), &outputs.to_safetensors().map_err(failed)?)?;
    }
    tracing::info!(
        "{} warp instructions, {} lane instructions, {} bytes loaded, {} bytes stored",
        outputs.report.warp_instructions,
        outputs.report.lane_instructions,
        outputs.report.global_load_bytes,
        outputs.report.global_store_bytes
    );
    Ok(())
}
