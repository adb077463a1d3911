//! `snisplice status` and `snisplice flows`: asking the running daemon.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::answer::{pretty, text};
use super::ask::ask;
use super::{Failure, guard};

/// What `snisplice status` prints.
pub(crate) fn status(socket: &Path, json: bool) -> Result<String, Failure> {
    let answer = ask(socket, "/api/v1/status")?;
    if json { pretty(&answer) } else { Ok(status_text(&answer)) }
}

/// What `snisplice flows` prints.
pub(crate) fn flows(socket: &Path, json: bool) -> Result<String, Failure> {
    let answer = ask(socket, "/api/v1/flows")?;
    if json { pretty(&answer) } else { Ok(flows_text(&answer)) }
}

fn status_text(status: &Value) -> String {
    let mut out = String::new();
    let field = |path: &str| text(status.pointer(path).unwrap_or(&Value::Null));
    let _ = writeln!(
        out,
        "snisplice {}  pid {}  {}  up {} s",
        field("/version"),
        field("/pid"),
        field("/phase"),
        field("/uptime_seconds")
    );
    for listener in status.pointer("/listeners").and_then(Value::as_array).into_iter().flatten() {
        let addresses = listener.get("addresses").and_then(Value::as_array).into_iter().flatten();
        let addresses: Vec<_> = addresses.map(text).collect();
        let name = text(listener.get("name").unwrap_or(&Value::Null));
        let _ = writeln!(out, "listener {name}: {}", addresses.join(", "));
    }
    out.push_str(&upstreams_text(status));
    let _ = writeln!(
        out,
        "connections: {} active, {} accepted",
        field("/connections/active"),
        field("/connections/accepted")
    );
    for name in ["sockmap", "local", "packet"] {
        let _ = writeln!(out, "{name}: {}", availability(status, name));
    }
    if status.get("kernel").is_some_and(Value::is_object) {
        let _ = writeln!(
            out,
            "spliced: the kernel forwarded {} bytes and left {} to the daemon",
            field("/kernel/redirected_bytes"),
            field("/kernel/passed_bytes")
        );
    }
    out.push_str(&guard::status_line(status));
    out
}

fn availability(status: &Value, datapath: &str) -> String {
    let datapath = status.pointer(&format!("/datapaths/{datapath}")).unwrap_or(&Value::Null);
    let reason = datapath.get("reason").and_then(Value::as_str);
    match (datapath.get("available") == Some(&Value::Bool(true)), reason) {
        (true, None) => "available".to_owned(),
        (true, Some(reason)) => format!("available, {reason}"),
        (false, Some(reason)) if reason.starts_with("not configured") => reason.to_owned(),
        (false, reason) => format!("unavailable: {}", reason.unwrap_or("the daemon does not say why")),
    }
}

fn upstreams_text(status: &Value) -> String {
    let mut out = String::new();
    let list =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for upstream in list(status, "upstreams") {
        for server in list(&upstream, "servers") {
            let field = |name: &str| text(server.get(name).unwrap_or(&Value::Null));
            let _ = write!(out, "upstream {}: ", text(upstream.get("name").unwrap_or(&Value::Null)));
            let _ = match field("state").as_str() {
                "unknown" => writeln!(out, "{}: no connection yet", field("server")),
                "down" => writeln!(
                    out,
                    "{}: down for {} s: {}",
                    field("server"),
                    field("since_seconds"),
                    field("last_error")
                ),
                state => writeln!(out, "{}: {state} for {} s", field("server"), field("since_seconds")),
            };
        }
    }
    out
}

fn flows_text(answer: &Value) -> String {
    const COLUMNS: [&str; 12] = [
        "id",
        "client",
        "listener",
        "sni",
        "route",
        "server",
        "datapath",
        "bytes_in",
        "bytes_out",
        "age_seconds",
        "idle_seconds",
        "obstacle",
    ];
    let flows = answer.get("flows").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut rows = vec![COLUMNS.map(str::to_uppercase)];
    rows.extend(
        flows.iter().map(|flow| COLUMNS.map(|column| text(flow.get(column).unwrap_or(&Value::Null)))),
    );
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn flows_are_aligned_and_missing_values_are_dashes() {
        let text = flows_text(&json!({"flows": [
            {"id": 7, "client": "10.0.0.1:5000", "listener": "tls", "sni": null, "route": "web", "server": "10.0.0.2:8443",
             "datapath": "sockmap", "bytes_in": 1, "bytes_out": 2, "age_seconds": 3}
        ]}));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].find("SNI"), lines[1].find("-  "));
        assert_eq!(lines[0].find("DATAPATH"), lines[1].find("sockmap"));
    }

    #[test]
    fn each_datapath_is_available_unavailable_or_not_configured() {
        let status = json!({"datapaths": {
            "sockmap": {"available": true, "reason": null},
            "local": {"available": true, "reason": "off by default: EAGAIN"},
            "packet": {"available": false, "reason": "not configured (add a [packet] section)"},
            "copy": {"available": false, "reason": "BPF is denied"}
        }});
        assert_eq!(
            ["sockmap", "local", "packet", "copy"].map(|name| availability(&status, name)),
            [
                "available",
                "available, off by default: EAGAIN",
                "not configured (add a [packet] section)",
                "unavailable: BPF is denied"
            ]
        );
    }

    #[test]
    fn servers_are_listed_with_what_connections_have_shown() {
        let server = |server, state, error| json!({"server": server, "state": state, "since_seconds": 7, "last_error": error});
        let text = upstreams_text(&json!({"upstreams": [
            {"name": "web", "servers": [
                server("10.0.0.1:443", "up", Value::Null), server("b.test:443", "down", json!("Connection refused"))
            ]},
            {"name": "api", "servers": [server("10.0.0.3:443", "unknown", Value::Null)]},
        ]}));
        assert_eq!(
            text,
            "upstream web: 10.0.0.1:443: up for 7 s\n\
             upstream web: b.test:443: down for 7 s: Connection refused\n\
             upstream api: 10.0.0.3:443: no connection yet\n"
        );
    }
}
