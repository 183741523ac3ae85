//! What the generated PTX computes, on the emulator, against float64 loops: random inputs, odd
//! shapes, results written in full and nothing beside them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "families are taken one by one here")]
mod cases;
mod numerics {
    pub(crate) mod attention;
    pub(crate) mod elements;
    pub(crate) mod exchange;
    pub(crate) mod exchange_group;
    pub(crate) mod gradients;
    pub(crate) mod machine;
    pub(crate) mod masked;
    pub(crate) mod packed;
    pub(crate) mod products;
    pub(crate) mod quantized;
    pub(crate) mod routing;
    pub(crate) mod rows;
    pub(crate) mod scaled;
    pub(crate) mod tiles;
    pub(crate) mod traffic;
    pub(crate) mod widened;
}
