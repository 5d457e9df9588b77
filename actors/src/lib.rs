//! actors
pub mod config;
pub mod domain;
pub mod error;
pub mod files;
pub mod providers;
pub mod store;
