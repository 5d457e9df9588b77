//! Who is told what about alerts, and when. Called by the alert actor at every change and every tick; it writes the messages into the
//! outbox. Pure: the state of groups, silences and alerts goes in, messages and the next state come out.

mod message;
pub(crate) mod render;
mod retry;
mod throttle;

pub use message::{Effect, Kind, Line, Links, Message, Risk};
pub use render::{Fact, byline, cut, escape, facts, fit, links, name, span, subject, text};
pub use retry::{again, hold};
pub use throttle::{Next, digest, next, without};
