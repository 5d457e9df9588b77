//! actors
pub mod domain;
pub mod error;
pub mod providers;
pub mod store;
