//! Checkpoints that do not fit are refused with everything that is wrong; files that are
//! damaged are told apart; weights are laid out as plans say.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod toy;

use moec_ir::DType;
use moec_ir::plan::{Weight, WeightPart};
use moec_runtime::weights::{Demand, assemble, random, weight_bytes};
use moec_runtime::{Checkpoint, Phase};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn folder(tensors: &Tensors) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    toy::write(&folder.path().join("model.safetensors"), tensors);
    folder
}

fn check(tensors: &Tensors) -> Result<(), Vec<moec_ir::Diagnostic>> {
    let folder = folder(tensors);
    let checkpoint = Checkpoint::open(folder.path())?;
    Demand::of_plans([&toy::artefact().phases[&Phase::Decode].plan]).check(&checkpoint, "Toy")
}

#[test]
fn all_that_is_wrong_stands_in_one_error() {
    let mut tensors = toy::tensors();
    tensors.remove("model.layers.1.w");
    tensors.remove("head_a");
    tensors.insert("head_b".into(), (vec![1, 3], vec![0.0; 3]));
    tensors.insert("model.layers.7.w".into(), (vec![1, 1], vec![0.0]));
    let errors = check(&tensors).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].code, "E0604");
    for line in [
        "2 missing, 1 unfit, 1 surplus",
        "missing: `head_a` [5, 1]",
        "missing: `model.layers.1.w` [1, 1]",
        "of another shape: `head_b` [1, 3], not [3, 1]",
        "surplus: `model.layers.7.w`",
    ] {
        assert!(errors[0].message.contains(line), "{}", errors[0].message);
    }
}

#[test]
fn frequencies_and_the_layer_of_a_missing_mtp_module_are_tolerated() {
    let mut tensors = toy::tensors();
    for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.2.eh_proj.weight"] {
        tensors.insert(name.into(), (vec![1], vec![0.0]));
    }
    tensors.insert("model.layers.2.w".into(), (vec![1], vec![0.0]));
    check(&tensors).unwrap();
    tensors.remove("model.layers.2.eh_proj.weight");
    let errors = check(&tensors).unwrap_err();
    assert!(errors[0].message.contains("surplus: `model.layers.2.w`"));
}

fn open_error(folder: &Path) -> moec_ir::Diagnostic {
    let errors = Checkpoint::open(folder).unwrap_err();
    assert_eq!(errors.len(), 1);
    errors.into_iter().next().unwrap()
}

#[test]
fn truncated_and_corrupt_files_are_told_apart() {
    let folder = folder(&toy::tensors());
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for (length, part) in
        [(0, "is empty"), (5, "5 bytes"), (40, "header"), (whole.len() - 3, "tensors take")]
    {
        fs::write(&path, &whole[..length]).unwrap();
        let error = open_error(folder.path());
        assert_eq!(error.code, "E0602", "{length}: {}", error.message);
        assert!(error.message.contains(part), "{}", error.message);
    }
    let corrupt = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let error = open_error(folder.path());
        assert_eq!(error.code, "E0603", "{}", error.message);
    };
    corrupt(&|b| b[9] = b'!');
    corrupt(&|b| b[20] = 0xff);
    corrupt(&|b| b[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    corrupt(&|b| b.extend([0; 4]));
    fs::remove_file(&path).unwrap();
    assert_eq!(open_error(folder.path()).code, "E0601");
}

#[test]
fn shards_are_joined_and_must_hold_what_the_index_says() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = toy::tensors();
    let (first, second): (Tensors, Tensors) =
        tensors.clone().into_iter().partition(|(name, _)| name.starts_with("head"));
    toy::write(&folder.path().join("a.safetensors"), &first);
    toy::write(&folder.path().join("b.safetensors"), &second);
    let index = |extra: &str| {
        let map: Vec<String> = first
            .keys()
            .map(|n| format!("\"{n}\": \"a.safetensors\""))
            .chain(second.keys().map(|n| format!("\"{n}\": \"b.safetensors\"")))
            .collect();
        let text = format!("{{\"weight_map\": {{{}{extra}}}}}", map.join(", "));
        fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
    };
    index("");
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(checkpoint.names().eq(tensors.keys().map(String::as_str)));
    index(", \"more\": \"a.safetensors\"");
    assert_eq!(open_error(folder.path()).code, "E0605");
    index(", \"more\": \"../a.safetensors\"");
    assert_eq!(open_error(folder.path()).code, "E0605");
    index(", \"more\": \"c.safetensors\"");
    assert_eq!(open_error(folder.path()).code, "E0601");
}

fn bytes_of(tensors: &Tensors, weight: &Weight, layer: Option<u64>, rank: u32) -> Vec<f32> {
    let folder = folder(tensors);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mut bytes = Vec::new();
    assemble(&checkpoint, weight, layer, rank, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    assert_eq!(bytes.len() as u64, weight_bytes(weight));
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn experts_parts_and_rows_lie_in_that_order() {
    let tensor = |first: u8, shape: &[usize]| {
        let n: usize = shape.iter().product();
        (shape.to_vec(), (0..n).map(|i| f32::from(first) + i as f32).collect::<Vec<_>>())
    };
    let tensors = BTreeMap::from([
        ("l.3.e.0.gate".to_owned(), tensor(0, &[1, 2])),
        ("l.3.e.0.up".to_owned(), tensor(10, &[2, 2])),
        ("l.3.e.1.gate".to_owned(), tensor(20, &[1, 2])),
        ("l.3.e.1.up".to_owned(), tensor(30, &[2, 2])),
        ("l.3.stacked".to_owned(), tensor(40, &[2, 1, 2])),
    ]);
    let part = |tensor: &str, shape: &[u64]| WeightPart {
        tensor: tensor.into(),
        shape: shape.into(),
        scale: None,
    };
    let weight = Weight {
        dtype: DType::F32,
        outer: 2,
        spread: false,
        parts: vec![
            part("l.{i}.e.{e}.gate", &[1, 2]),
            part("l.{i}.stacked", &[2, 1, 2]),
            part("l.{i}.e.{e}.up", &[2, 2]),
        ],
    };
    let expected = [0, 1, 40, 41, 10, 11, 12, 13, 20, 21, 42, 43, 30, 31, 32, 33];
    assert_eq!(bytes_of(&tensors, &weight, Some(3), 0), expected.map(|n| n as f32));
    // Spread over two ranks, each has one of the experts, whether tensors hold one or all.
    let spread = Weight { outer: 1, spread: true, ..weight };
    for rank in 0..2 {
        let own = expected[8 * rank..][..8].iter().map(|&n| n as f32).collect::<Vec<_>>();
        assert_eq!(bytes_of(&tensors, &spread, Some(3), rank as u32), own);
    }
}

#[test]
fn made_up_weights_are_what_is_demanded_and_repeat_themselves() {
    let plan = toy::group::artefact().phases[&Phase::Decode].plan.clone();
    let demand = Demand::of_plans([&plan]);
    let made = random(&demand, 1).unwrap();
    // Every rank's experts are demanded, not only those of one.
    demand.check(&made, "Toy").unwrap();
    assert!(made.names().eq(toy::group::tensors().keys().map(String::as_str)));
    let bytes = |c: &Checkpoint| c.tensor("head").unwrap().bytes.to_vec();
    assert_eq!(bytes(&made), bytes(&random(&demand, 1).unwrap()));
    assert_ne!(bytes(&made), bytes(&random(&demand, 2).unwrap()));
    let mut changed = made.clone();
    changed.put("head", safetensors::Dtype::F32, &[1, 1], vec![0; 4]).unwrap();
    assert!(demand.check(&changed, "Toy").is_err() && demand.check(&made, "Toy").is_ok());
    let short = changed.put("head", safetensors::Dtype::F32, &[2, 1], vec![0; 4]).unwrap_err();
    assert_eq!(short[0].code, "E0603");
}
