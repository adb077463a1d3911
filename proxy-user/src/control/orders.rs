//! `snisplice kill`, `offload` and `restore`: orders for single connections of the running daemon.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::answer::{pretty, text};
use super::ask::exchange;
use super::{Exit, Failure};

/// What is printed, and why the command fails all the same, if it does: some of the flows may have obeyed.
pub(crate) type Printed = (String, Option<Failure>);

/// Has the daemon carry out `order` for these flows. `past` is how it is called once that is done.
pub(crate) fn give(
    socket: &Path,
    (order, past): (&str, &str),
    ids: &[u64],
    json: bool,
) -> Result<Printed, Failure> {
    let path = format!("/api/v1/flows/{order}");
    let (is_good, answer) = exchange(socket, "POST", &path, &json!({ "ids": ids }).to_string())?;
    let items = |name: &str| answer.get(name).and_then(Value::as_array).map(Vec::as_slice);
    let (Some(done), Some(failed)) = (items("done"), items("failed")) else {
        return Err(Failure::new(Exit::Unavailable, answer.get("error").map_or_else(String::new, text)));
    };
    let errors: Vec<String> = failed.iter().filter_map(|one| one.get("error").map(text)).collect();
    let failure = (!is_good).then(|| Failure::new(Exit::Unavailable, errors.join("\n")));
    if json {
        return Ok((pretty(&answer)?, failure));
    }
    let mut out = String::new();
    for id in done {
        let _ = writeln!(out, "{past} {}", text(id));
    }
    Ok((out, failure))
}
