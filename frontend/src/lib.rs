//! moec-frontend
