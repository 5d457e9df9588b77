//! Objectives as OpenSLO v1 documents, and back. What OpenSLO cannot say stands in annotations; what EchoPilot cannot do is named with
//! its place, never dropped in silence. Used by `echopilot slo export` and `import`.

mod export;
mod import;
mod node;
mod toml;
mod units;

pub use export::export;
pub use import::{Imported, import};
pub use toml::to_toml;

const API: &str = "openslo/v1";
/// What is ours in `metadata.annotations`.
const OBJECTIVE: &str = "echopilot.io/objective";
const SERVICE: &str = "echopilot.io/service";
const MIN_EVENTS: &str = "echopilot.io/min-events";
const NO_DATA: &str = "echopilot.io/no-data";
const SHORT_WINDOW: &str = "echopilot.io/short-window";

#[cfg(test)]
mod tests;
