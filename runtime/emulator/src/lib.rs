//! moec-emulator
