//! moec-ir
