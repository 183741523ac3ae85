//! What the generated PTX computes, on the emulator, against float64 loops: random inputs, odd
//! shapes, results written in full and nothing beside them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "families are taken one by one here")]
mod cases;
mod numerics {
    pub mod attention;
    pub mod elements;
    pub mod machine;
    pub mod products;
    pub mod routing;
    pub mod rows;
}
