//! Payment companies, one file each, and the sandbox that speaks the same wire format. Called by tasks and by the gateway
//! through `env`. To add a provider: its file and its `mod` line.

/// The built-in payment provider of a daemon without a key: an HTTP server of its own with a virtual clock.
pub mod sandbox;
/// The client for Stripe's API: the same code against the sandbox, test mode and live mode, by base URL and key.
pub mod stripe;

pub use sandbox::{Sandbox, Settings};
pub use stripe::{Answer, Client};

/// The name in the ledger of everything that speaks Stripe's wire format, the sandbox included.
pub const STRIPE: &str = "stripe";
