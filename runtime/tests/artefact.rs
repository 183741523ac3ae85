//! Artefacts read back as they were written, and damaged ones are refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod toy;

use moec_runtime::{Artefact, Phase};
use std::fs;
use std::path::Path;

fn written() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("toy.artefact");
    toy::artefact().write(&dir).unwrap();
    (folder, dir)
}

fn code(dir: &Path) -> &'static str {
    Artefact::read(dir).unwrap_err()[0].code
}

#[test]
fn an_artefact_reads_back() {
    let (_folder, dir) = written();
    assert!(Artefact::is_at(&dir));
    assert_eq!(Artefact::read(&dir).unwrap(), toy::artefact());
}

#[test]
fn phases_written_one_by_one_stay_together_unless_the_source_changed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("toy.artefact");
    let only = |phase| {
        let mut artefact = toy::artefact();
        artefact.phases.retain(|&p, _| p == phase);
        artefact
    };
    only(Phase::Prefill).write(&dir).unwrap();
    only(Phase::Decode).write(&dir).unwrap();
    assert_eq!(Artefact::read(&dir).unwrap(), toy::artefact());
    let mut other = only(Phase::Decode);
    other.source = moec_runtime::artefact::digest("another source");
    other.write(&dir).unwrap();
    assert_eq!(Artefact::read(&dir).unwrap(), other);
    let left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["toy.artefact"]);
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "precious").unwrap();
    let refused = toy::artefact().write(folder.path()).unwrap_err();
    assert_eq!(refused[0].code, "E1005");
    assert_eq!(fs::read_to_string(folder.path().join("thesis.tex")).unwrap(), "precious");
}

#[test]
fn damage_of_every_kind_is_told_apart() {
    let (_folder, dir) = written();
    assert_eq!(code(&dir.join("nowhere")), "E1001");

    let ptx = dir.join("decode/kernels.ptx");
    let whole = fs::read_to_string(&ptx).unwrap();
    fs::write(&ptx, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(code(&dir), "E1003");
    fs::write(&ptx, whole.replace("add.f32", "sub.f32")).unwrap();
    assert_eq!(code(&dir), "E1003");
    fs::remove_file(&ptx).unwrap();
    assert_eq!(code(&dir), "E1001");

    let manifest = dir.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"format\": 3", "\"format\": 999")).unwrap();
    let refused = Artefact::read(&dir).unwrap_err();
    assert_eq!(refused[0].code, "E1002");
    assert!(refused[0].message.contains("999"));
    fs::write(&manifest, &text[..40]).unwrap();
    assert_eq!(code(&dir), "E1003");
}

#[test]
fn a_plan_that_names_what_does_not_exist_is_refused() {
    let (_folder, dir) = written();
    let mut bad = toy::artefact();
    let plan = &mut bad.phases.get_mut(&Phase::Decode).unwrap().plan;
    plan.functions[1].launches[0].kernel = 17;
    plan.functions[2].launches[0].operands[1].buffer = moec_ir::plan::Buffer::Weight(3);
    plan.kernels[0].geometry = None;
    bad.write(&dir).unwrap();
    let refused = Artefact::read(&dir).unwrap_err();
    assert!(refused.iter().all(|d| d.code == "E1004"));
    let text: String = refused.iter().map(|d| d.message.as_str()).collect();
    for part in ["kernel 17", "weight 3 of 1", "`gather_0` has no geometry"] {
        assert!(text.contains(part), "{text}");
    }
}
