//! `snisplice guard`: asking the running daemon about its guard, and having it do something.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::control::answer::{pretty, text};
use crate::control::ask::{Patience, ask_within, exchange};
use crate::control::{Exit, Failure};

const PATH: &str = "/api/v1/guard";

/// What is asked for.
pub(crate) enum Request {
    List,
    Stats,
    Ban { net: String, time: Option<Duration>, force: bool },
    Unban { net: String },
    Reload,
}

/// What the command prints.
pub(crate) fn run(socket: &Path, request: &Request, json: bool) -> Result<String, Failure> {
    let (method, path, body) = match request {
        Request::List | Request::Stats => ("GET", PATH.to_owned(), String::new()),
        Request::Ban { net, time, force } => {
            let milliseconds = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
            let body = json!({ "net": net, "milliseconds": milliseconds, "force": force });
            ("POST", format!("{PATH}/ban"), body.to_string())
        }
        Request::Unban { net } => ("POST", format!("{PATH}/unban"), json!({ "net": net }).to_string()),
        Request::Reload => ("POST", format!("{PATH}/reload"), String::new()),
    };
    let (is_good, answer) = exchange(socket, method, &path, &body)?;
    if !is_good {
        let error = answer.get("error").map_or_else(|| answer.to_string(), text);
        return Err(Failure::new(Exit::Unavailable, error));
    }
    if json {
        return pretty(&answer);
    }
    let field = |name: &str| text(answer.get(name).unwrap_or(&Value::Null));
    Ok(match request {
        Request::List => list_text(&answer),
        Request::Stats => stats_text(&answer),
        Request::Ban { .. } => format!("banned {}\n{}", field("banned"), dry_run_line(&answer)),
        Request::Unban { .. } => format!("lifted the ban of {}\n", field("lifted")),
        Request::Reload => format!("{} networks in the deny file\n", field("networks")),
    })
}

fn items<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn list_text(answer: &Value) -> String {
    let mut out = format!("{:<44}{:<14}SECONDS LEFT\n", "NET", "REASON");
    for ban in items(answer, "list") {
        let field = |name: &str| text(ban.get(name).unwrap_or(&Value::Null));
        let _ = writeln!(out, "{:<44}{:<14}{}", field("net"), field("reason"), field("seconds_left"));
    }
    out + dry_run_line(answer)
}

/// What an operator must know who bans somebody, or looks who is banned.
fn dry_run_line(answer: &Value) -> &'static str {
    match answer.get("dry_run") {
        Some(Value::Bool(true)) => {
            "nothing is dropped: [guard] has dry_run = true; remove it and restart to have bans enforced\n"
        }
        _ => "",
    }
}

fn stats_text(answer: &Value) -> String {
    let field = |name: &str| text(answer.get(name).unwrap_or(&Value::Null));
    let mut out = status_line(&json!({ "guard": answer }));
    let _ = writeln!(
        out,
        "networks: {} allowed, {} denied, {} denied by the file; bans: {}; sources: {} of {}",
        field("allow"),
        field("deny"),
        field("deny_file"),
        field("bans"),
        field("sources"),
        field("sources_limit")
    );
    let _ = writeln!(out, "{:<10}{:<14}PACKETS", "VERDICT", "REASON");
    for line in items(answer, "packets") {
        let field = |name: &str| text(line.get(name).unwrap_or(&Value::Null));
        let is_dry = answer.get("dry_run") == Some(&Value::Bool(true));
        if is_dry || field("verdict") != "dry_run" {
            let _ = writeln!(out, "{:<10}{:<14}{}", field("verdict"), field("reason"), field("count"));
        }
    }
    out
}

/// One line of the status; none where no guard is configured.
pub(in crate::control) fn status_line(status: &Value) -> String {
    let Some(guard) = status.get("guard").filter(|guard| !guard.is_null()) else { return String::new() };
    if let Some(reason) = guard.get("reason").and_then(Value::as_str) {
        return format!("guard: unavailable: {reason}\n");
    }
    let dry = if guard.get("dry_run") == Some(&Value::Bool(true)) { ", drops nothing (dry_run)" } else { "" };
    let places: Vec<String> = items(guard, "interfaces")
        .iter()
        .map(|interface| {
            let field = |name: &str| interface.get(name).and_then(Value::as_str);
            let state = field("mode").map_or_else(
                || format!("not attached: {}", field("reason").unwrap_or_default()),
                str::to_owned,
            );
            format!("{} {state}", field("name").unwrap_or_default())
        })
        .collect();
    format!("guard: {}{dry}\n", places.join(", "))
}

/// Where the daemon of the usual socket has its guard, for doctor. None: no daemon answers there, or it has no guard.
pub(in crate::control) fn running() -> Option<String> {
    let patience = Patience { whole: Duration::from_secs(5), notice: None };
    let status = ask_within(Path::new("/run/snisplice/admin.sock"), "/api/v1/status", patience).ok()?;
    let line = status_line(&status);
    line.strip_prefix("guard: ").map(|line| line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_where_it_is_attached_and_why_not() {
        assert_eq!(status_line(&json!({ "guard": null })), "");
        let guard = json!({ "guard": { "dry_run": true, "interfaces": [
            { "name": "eth0", "mode": "native", "reason": null },
            { "name": "eth1", "mode": null, "reason": "there is no such interface" },
        ], "reason": null } });
        assert_eq!(
            status_line(&guard),
            "guard: eth0 native, eth1 not attached: there is no such interface, drops nothing (dry_run)\n"
        );
        let none = json!({ "guard": { "dry_run": false, "interfaces": [], "reason": "BPF is denied" } });
        assert_eq!(status_line(&none), "guard: unavailable: BPF is denied\n");
    }

    #[test]
    fn a_list_of_bans_that_drop_nothing_says_so() {
        let text = list_text(&json!({ "list": [], "dry_run": true }));
        assert!(
            text.lines().any(|line| line.starts_with("nothing is dropped: [guard] has dry_run")),
            "{text}"
        );
        assert_eq!(list_text(&json!({ "list": [], "dry_run": false })).lines().count(), 1);
    }

    #[test]
    fn bans_are_listed_with_what_is_left_of_them() {
        let answer =
            json!({ "list": [{ "net": "192.0.2.0/24", "reason": "operator", "seconds_left": null }] });
        let text = list_text(&answer);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].find("REASON"), lines[1].find("operator"));
        assert!(lines[1].ends_with('-'), "{text}");
    }
}
