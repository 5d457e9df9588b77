//! Payment companies, one file each, and the sandbox that speaks the same wire format. Called by tasks and by the gateway
//! through `env`. To add a provider: its file, its `mod` line and its row in `PROVIDERS`.

/// The built-in payment provider of a daemon without a key: an HTTP server of its own with a virtual clock.
pub mod sandbox;
/// The client for Stripe's API: the same code against the sandbox, test mode and live mode, by base URL and key.
pub mod stripe;

pub use sandbox::{Sandbox, Settings};
pub use stripe::{Answer, Client, Mode, mode_of_key};

/// The name under which the ledger keeps what Stripe, or the sandbox in its place, reported.
pub const STRIPE: &str = "stripe";

/// A payment provider as it appears in configuration, logs and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provider {
    pub name: &'static str,
    pub about: &'static str,
    /// Whether real money can move.
    pub can_be_live: bool,
}

/// Every provider there is.
pub const PROVIDERS: &[Provider] = &[
    Provider { name: "sandbox", about: "Built in, persistent, with a virtual clock; no money moves.", can_be_live: false },
    Provider { name: "stripe", about: "Stripe, by a secret or restricted key in test or live mode.", can_be_live: true },
];
