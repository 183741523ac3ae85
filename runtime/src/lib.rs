//! moec-runtime
