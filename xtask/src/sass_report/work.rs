//! What a kernel computes, read from a plan.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// A kernel of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Work {
    /// Its entry in the PTX.
    pub(super) name: String,
    /// `gemm`, `scaled_gemm`, …
    pub(super) family: String,
    /// Columns and depth of a product.
    pub(super) product: Option<[u64; 2]>,
    /// Rows that each matrix of weights is expected to have, where the spec says it.
    pub(super) expected: Option<u64>,
    /// Whether its sums are over tokens of one expert each.
    pub(super) grouped: bool,
    /// Whether it reads a cache in FP8.
    pub(super) quantized: bool,
    /// What the model calls its result.
    pub(super) computes: String,
    /// Threads of a CTA.
    pub(super) threads: u64,
    /// Bytes of dynamic shared memory.
    pub(super) shared_bytes: u64,
    /// Rows that tensor copies bring of each operand, those alike told once: the tile, where there is
    /// one.
    pub(super) boxes: Vec<u64>,
    /// CTAs of a cluster.
    pub(super) cluster: u64,
}

/// The kernels of a plan, in its order.
pub(super) fn of_plan(json: &str) -> Result<Vec<Work>> {
    let plan: Value = serde_json::from_str(json).context("the plan is not JSON")?;
    let mut computes: BTreeMap<u64, &str> = BTreeMap::new();
    let launches = list(&plan["functions"]).iter().flat_map(|f| list(&f["launches"]));
    for launch in launches {
        if let (Some(kernel), Some(text)) = (launch["kernel"].as_u64(), launch["computes"].as_str())
        {
            computes.entry(kernel).or_insert(text);
        }
    }
    let kernels = (0..).zip(list(&plan["kernels"]));
    kernels.map(|(at, kernel)| work(kernel, computes.get(&at).copied().unwrap_or(""))).collect()
}

fn work(kernel: &Value, computes: &str) -> Result<Work> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (spec, geometry) = (&kernel["spec"], &kernel["geometry"]);
    let family = text(&spec["kernel"]).context("a kernel of the plan has no family")?;
    let last_two = |shape: &Value| {
        let sizes: Vec<u64> = list(shape).iter().rev().take(2).filter_map(Value::as_u64).collect();
        <[u64; 2]>::try_from(sizes).ok().map(|[k, n]| [n, k])
    };
    let maps = list(&geometry["tensor_maps"]).iter();
    let mut boxes: Vec<u64> = maps
        .filter(|map| map["swizzle"] != 0)
        .filter_map(|map| map["box_dims"][1].as_u64())
        .collect();
    match family != "attention" {
        // Results may have a map after those of the factors.
        true => boxes.truncate(2),
        // An attention has a map for each part of the queries and keys.
        false => boxes.dedup(),
    }
    Ok(Work {
        name: text(&kernel["name"]).context("a kernel of the plan has no name")?,
        product: match &*family {
            "weight_gradient" => last_two(&spec["dw"]["shape"]),
            family => last_two(&spec["w"]["shape"]).filter(|_| family.ends_with("gemm")),
        },
        family,
        grouped: spec["grouped"] == true,
        quantized: spec["quantized"].is_object(),
        expected: spec["expected"].as_u64(),
        computes: computes.to_owned(),
        threads: list(&geometry["block"]).iter().filter_map(Value::as_u64).product(),
        shared_bytes: geometry["shared_bytes"].as_u64().unwrap_or(0),
        boxes,
        cluster: geometry["cluster"].as_u64().unwrap_or(1),
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_read_from_its_weight() {
        let plan = r#"{"functions": [{"launches": [{"kernel": 0, "computes": "q = scaled_gemm"}]}],
            "kernels": [{"name": "scaled_gemm_0",
                "spec": {"kernel": "scaled_gemm", "w": {"shape": [1, 24576, 1536]}},
                "geometry": {"block": [384, 1, 1], "shared_bytes": 512, "tensor_maps": [
                    {"box_dims": [128, 256], "swizzle": 128},
                    {"box_dims": [128, 64], "swizzle": 128},
                    {"box_dims": [64, 16], "swizzle": 128},
                    {"box_dims": [4, 256], "swizzle": 0}]}}]}"#;
        let found = of_plan(plan).unwrap();
        assert_eq!(found[0].product, Some([24576, 1536]));
        assert_eq!((found[0].threads, found[0].shared_bytes), (384, 512));
        assert_eq!(found[0].boxes, [256, 64]);
        assert_eq!(found[0].computes, "q = scaled_gemm");
        assert!(of_plan("{").is_err() && of_plan(r#"{"kernels": [{}]}"#).is_err());
    }
}
