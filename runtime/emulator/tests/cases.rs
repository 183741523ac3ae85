//! Foreign PTX with inputs and expected outputs: each folder of `tests/cases` is one test. It
//! holds `launch.json`, what that names, `expected.safetensors`, and `expected.json` with a
//! tolerance per output: `|got - expected| <= atol + rtol * |expected|`. Each runs in order and by
//! several random schedules.

use std::path::Path;

use half::{bf16, f16};
use libtest_mimic::{Arguments, Failed, Trial};
use moec_emulator::{Schedule, emulate_scheduled};
use safetensors::{Dtype, SafeTensors};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let entries = std::fs::read_dir(&folder).expect("the folder of cases is there");
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no cases");
    let mut trials = Vec::new();
    for path in paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        for schedule in schedules() {
            let path = path.clone();
            trials.push(Trial::test(format!("{name} {schedule:?}"), move || run(&path, schedule)));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// In order, and a few seeds; or the one in `EMULATOR_SEED`.
fn schedules() -> Vec<Schedule> {
    match std::env::var("EMULATOR_SEED") {
        Ok(seed) => vec![Schedule::Seeded(seed.parse().expect("a number"))],
        Err(_) => {
            let seeds = (0..3).map(Schedule::Seeded);
            std::iter::once(Schedule::InOrder).chain(seeds).collect()
        }
    }
}

fn run(folder: &Path, schedule: Schedule) -> Result<(), Failed> {
    let outputs = emulate_scheduled(&folder.join("launch.json"), Some(schedule))
        .map_err(|error| error.to_string())?;
    let data = std::fs::read(folder.join("expected.safetensors"))?;
    let expected = SafeTensors::deserialize(&data).map_err(|error| error.to_string())?;
    let text = std::fs::read_to_string(folder.join("expected.json"))?;
    let tolerances: serde_json::Value = serde_json::from_str(&text)?;
    let Some(names) = tolerances["outputs"].as_object() else {
        return Err("expected.json has no outputs".into());
    };
    for (name, tolerance) in names {
        let view = expected.tensor(name).map_err(|error| error.to_string())?;
        let got = outputs.tensors.get(name).ok_or(format!("no output `{name}`"))?;
        if (got.dtype, got.shape.as_slice()) != (view.dtype(), view.shape()) {
            return Err(format!("`{name}` is {:?} {:?}", got.dtype, got.shape).into());
        }
        let exact = tolerance["exact"].as_bool().unwrap_or(false);
        let bound = |key: &str| {
            if exact { 0.0 } else { tolerance[key].as_f64().unwrap_or(0.0) }
        };
        let (rtol, atol) = (bound("rtol"), bound("atol"));
        let pairs = values(got.dtype, &got.bytes)?.into_iter().zip(values(got.dtype, view.data())?);
        for (index, (got, expected)) in pairs.enumerate() {
            let same = got == expected || got.is_nan() && expected.is_nan();
            let close = (got - expected).abs() <= atol + rtol * expected.abs();
            if !same && !close {
                return Err(format!("`{name}`[{index}] is {got}, expected {expected}").into());
            }
        }
    }
    Ok(())
}

/// Elements as float64; 64-bit integers lose low bits, so they are compared in two halves.
fn values(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f64>, Failed> {
    let words = |size: usize| bytes.chunks_exact(size);
    let word =
        |chunk: &[u8]| u32::from_le_bytes(chunk.try_into().expect("the chunk has that size"));
    let half =
        |chunk: &[u8]| u16::from_le_bytes(chunk.try_into().expect("the chunk has that size"));
    Ok(match dtype {
        Dtype::U8 | Dtype::F8_E4M3 => bytes.iter().map(|&byte| f64::from(byte)).collect(),
        Dtype::F16 => words(2).map(|chunk| f64::from(f16::from_bits(half(chunk)))).collect(),
        Dtype::BF16 => words(2).map(|chunk| f64::from(bf16::from_bits(half(chunk)))).collect(),
        Dtype::F32 => words(4).map(|chunk| f64::from(f32::from_bits(word(chunk)))).collect(),
        Dtype::F64 => words(8)
            .map(|chunk| f64::from_le_bytes(chunk.try_into().expect("the chunk has that size")))
            .collect(),
        Dtype::I32 => words(4).map(|chunk| f64::from(word(chunk) as i32)).collect(),
        Dtype::U32 | Dtype::U64 | Dtype::I64 => {
            words(4).map(|chunk| f64::from(word(chunk))).collect()
        }
        other => return Err(format!("no comparison of {other:?}").into()),
    })
}
