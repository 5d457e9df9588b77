//! providers
pub mod sandbox;
pub mod stripe;
/// Stripe's name in the ledger; the sandbox speaks its wire format.
pub const STRIPE: &str = "stripe";
