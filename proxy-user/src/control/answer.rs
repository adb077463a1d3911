//! Answers of the admin endpoint as text.

use serde_json::Value;

use super::{Exit, Failure};

/// The whole answer, for `--json`.
pub(super) fn pretty(answer: &Value) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(answer).map_err(|error| Failure::new(Exit::System, error))?;
    Ok(text + "\n")
}

/// One value. One that is missing is a dash.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
