//! moec-passes
