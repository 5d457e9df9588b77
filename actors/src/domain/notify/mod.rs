//! Who is told what about alerts, and when. Called by the alert actor at every change and every tick; it writes the messages into the
//! outbox. Pure: the state of groups, silences and alerts goes in, messages and the next state come out.

mod causes;
mod engine;
mod group;
mod link;
mod message;
pub(crate) mod render;
mod retry;
mod silence;
mod telling;
mod throttle;

pub use engine::{Decision, Look, Quiet, all_labels, decide, quiet};
pub use group::{Channel, Group, Settings, Told};
pub use link::{Action, Grant, link, read};
pub use message::{Effect, Kind, Line, Links, Message, Risk};
pub use render::{Fact, byline, cut, escape, facts, fit, links, name, span, subject, text};
pub use retry::{again, hold};
pub use silence::{Maintenance, Matcher, Silence};
pub use throttle::{Next, digest, next, without};
