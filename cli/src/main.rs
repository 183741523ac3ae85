//! moec
fn main() {}
