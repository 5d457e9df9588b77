//! The demo's business, made only through the provider's `/v1` and the webhooks it sends, in virtual time that ends now.
//! Called by `run --demo`; a second call on the same data changes nothing.

use std::fmt;

use crate::{env::Env, error::Result};

/// What the seeding did, as one sentence.
#[derive(Clone, Debug, Default)]
pub struct Story {}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "")
    }
}

pub async fn seed(_env: &Env, _progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Story> {
    Ok(Story {})
}
