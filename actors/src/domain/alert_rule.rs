//! alert_rule
