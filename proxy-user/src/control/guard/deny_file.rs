//! The file of networks to deny: one on a line, and comments.

use std::io::Read as _;
use std::path::Path;

use ipnet::IpNet;

use crate::control::config::{self, ConfigErrors, Problem};
use crate::sys;

/// The largest file that is read.
const MAX_BYTES: u64 = 64 << 20;
/// Mistakes that are listed.
const MAX_LISTED: usize = 20;

/// The networks of the file.
///
/// # Errors
/// It cannot be read, or lines of it are no networks: up to [`MAX_LISTED`] of them.
pub(super) fn read(path: &Path) -> Result<Vec<IpNet>, ConfigErrors> {
    let name = path.display().to_string();
    let failed = |what: String| ConfigErrors::of(vec![Problem::of_file(&name, what)]);
    let mut text = String::new();
    let file =
        sys::open_regular(path).map_err(|error| failed(format!("{error}; check 'deny_file' in [guard]")))?;
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| failed(format!("{error}; it must be text in UTF-8")))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(failed("it is larger than 64 MiB; is it a list of networks?".to_owned()));
    }
    parse(&text, &name)
}

fn parse(text: &str, name: &str) -> Result<Vec<IpNet>, ConfigErrors> {
    let (mut networks, mut wrong, mut more) = (Vec::new(), Vec::new(), 0);
    // Editors on Windows put a byte order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        let network = line.split('#').next().unwrap_or_default().trim();
        if network.is_empty() {
            continue;
        }
        match config::network(network) {
            Ok(network) => networks.push(network),
            Err(_) if wrong.len() >= MAX_LISTED => more += 1,
            Err(what) => {
                let indent = line.chars().take_while(|c| c.is_whitespace()).count();
                let place = (Some(number), Some(indent + 1));
                wrong.push(Problem {
                    line: place.0,
                    column: place.1,
                    ..Problem::of_file(name, what.to_string())
                });
            }
        }
    }
    if more > 0 {
        let message = format!("{more} more lines are no networks; correct these first");
        wrong.push(Problem::of_file(name, message));
    }
    if wrong.is_empty() { Ok(networks) } else { Err(ConfigErrors::of(wrong)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Vec<String> {
        parse(text, "deny").unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn networks_comments_and_empty_lines() {
        let text = "# a list\n\n10.0.0.0/8 # all of it\n\t2001:db8::/32\r\n192.0.2.7#one\n  # nothing\n";
        assert_eq!(networks(text), ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]);
        assert!(networks("").is_empty());
    }

    #[test]
    fn a_file_of_windows_is_read() {
        assert_eq!(networks("\u{feff}10.0.0.0/8\r\n192.0.2.7\r\n"), ["10.0.0.0/8", "192.0.2.7/32"]);
        assert_eq!(networks("\u{feff}# x\r\n"), [""; 0]);
        let errors = parse("\u{feff}x\r\n", "deny").unwrap_err().to_string();
        assert!(errors.starts_with("deny:1:1: \"x\" is not a range of addresses; "), "{errors}");
    }

    #[test]
    fn every_mistake_is_named_with_its_line_up_to_a_number() {
        let errors = parse("10.0.0.0/8\n 10.0.0.1/8\nnonsense\n", "deny").unwrap_err().to_string();
        let starts = ["deny:2:2: \"10.0.0.1/8\" has bits", "deny:3:1: \"nonsense\" is not a range"];
        assert_eq!(errors.lines().count(), starts.len(), "{errors}");
        for (line, start) in errors.lines().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
        let errors = parse(&"x\n".repeat(100), "deny").unwrap_err().to_string();
        assert_eq!(errors.lines().count(), MAX_LISTED + 1);
        assert!(errors.ends_with("\ndeny: 80 more lines are no networks; correct these first"), "{errors}");
    }

    #[test]
    fn a_file_that_is_not_there_or_is_none_is_named() {
        let errors = read(Path::new("/nonexistent/deny.txt")).unwrap_err().to_string();
        assert!(errors.starts_with("/nonexistent/deny.txt: "), "{errors}");
        let errors = read(Path::new("/dev/zero")).unwrap_err().to_string();
        let expected = "/dev/zero: it is a device, not a regular file; check 'deny_file' in [guard]";
        assert_eq!(errors, expected);
    }
}
