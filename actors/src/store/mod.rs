//! store
pub mod engine;
pub mod sqlite;
