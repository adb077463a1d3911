//! Metrics as text, in the format that is asked for: OpenMetrics, or the classic text format of Prometheus, which differs in
//! little things that strict parsers refuse.

use std::fmt;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics, in the format that `headers` ask for.
pub(super) fn answer(headers: &HeaderMap, registry: &Registry) -> Response {
    let mut open_metrics = String::new();
    if let Err(error) = encode(&mut open_metrics, registry) {
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response();
    }
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let (kind, text) = if wants_open_metrics(accepted) {
        (OPEN_METRICS, open_metrics)
    } else {
        (CLASSIC, classic(&open_metrics))
    };
    ([(header::CONTENT_TYPE, kind), (header::VARY, "Accept")], text).into_response()
}

/// Whether the lines of an `Accept` header (RFC 9110, section 12.5.1) prefer OpenMetrics, by name, to the classic format.
fn wants_open_metrics<'a>(lines: impl Iterator<Item = &'a str>) -> bool {
    let (mut open, mut classic) = (0.0, 0.0);
    for range in lines.flat_map(|line| line.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut weight, mut version) = (1.0, None);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => weight = value.parse::<f32>().unwrap_or(0.0),
                "version" => version = Some(value),
                _ => {}
            }
        }
        let best = match (kind.as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => &mut open,
            ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => &mut classic,
            _ => continue,
        };
        *best = weight.max(*best);
    }
    open > 0.0 && open >= classic
}

/// The same in the classic format, in which a family is called as its samples are: a counter's name ends in `_total`, and what
/// OpenMetrics calls an info is a gauge.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + open_metrics.len() / 8);
    let mut help = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), about) => help = about,
            (Some("#"), Some("TYPE"), Some(family), Some(kind)) => {
                // Writing to a string does not fail.
                let _ = begin(&mut text, family, kind, help.take());
            }
            (Some("#"), ..) => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

fn begin(text: &mut String, family: &str, kind: &str, help: Option<&str>) -> fmt::Result {
    use fmt::Write as _;

    let (suffix, kind) = match kind {
        "counter" => ("_total", kind),
        "info" => ("_info", "gauge"),
        "gauge" | "histogram" | "summary" => ("", kind),
        _ => ("", "untyped"),
    };
    if let Some(help) = help {
        // OpenMetrics escapes a quote too, here it would be a backslash too many.
        let help = help.replace("\\\"", "\"");
        writeln!(text, "# HELP {family}{suffix} {help}")?;
    }
    writeln!(text, "# TYPE {family}{suffix} {kind}")
}

#[cfg(test)]
mod tests;
