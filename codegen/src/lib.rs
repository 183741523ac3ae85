//! moec-codegen
