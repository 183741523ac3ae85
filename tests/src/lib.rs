//! moec-tests
