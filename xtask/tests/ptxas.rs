//! The verification command, against the real assembler.

use std::fs;

use xtask::ptxas::{PtxasOptions, run};
use xtask::tools::{Tool, find, workspace_root};

const GOOD: &str = "\
.version 8.7
.target sm_90a
.address_size 64
.visible .entry store_one(.param .u64 out) {
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}
";

fn options(path: &std::path::Path) -> PtxasOptions {
    PtxasOptions {
        paths: vec![path.to_path_buf()],
        arch: "sm_90a".to_owned(),
        strict: true,
        ptxas: None,
    }
}

#[test]
fn the_assembler_that_setup_installed_is_found() {
    assert!(find(&workspace_root(), Tool::Ptxas).is_some(), "run `cargo xtask setup`");
}

#[test]
fn a_good_file_passes_and_a_broken_one_does_not() {
    let dir = std::env::temp_dir().join(format!("xtask-ptxas-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let (good, broken) = (dir.join("good.ptx"), dir.join("broken.ptx"));
    fs::write(&good, GOOD).unwrap();
    fs::write(&broken, GOOD.replace("%r1, 1", "%r9, 1")).unwrap();

    let table = run(&workspace_root(), &options(&good)).unwrap();
    assert!(table.contains("store_one"), "{table}");
    let error = run(&workspace_root(), &options(&broken)).unwrap_err().to_string();
    assert!(error.contains("%r9"), "{error}");

    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let error = run(&workspace_root(), &options("no/such.ptx".as_ref())).unwrap_err().to_string();
    assert!(error.contains("no/such.ptx"), "{error}");
}
