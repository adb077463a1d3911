//! The file of networks to deny: one on a line, and comments.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::control::config;
use crate::sys;

/// The largest file that is read.
const MAX_BYTES: u64 = 64 << 20;
/// Mistakes that are listed.
const MAX_LISTED: usize = 20;

/// What is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistakes {
    path: PathBuf,
    listed: Vec<(usize, String)>,
    more: usize,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (line, what) in &self.listed {
            match line {
                0 => write!(f, "{separator}{}: {what}", self.path.display())?,
                _ => write!(f, "{separator}{}:{line}: {what}", self.path.display())?,
            }
            separator = "\n";
        }
        if self.more > 0 {
            write!(f, "\nand {} more lines that are no networks", self.more)?;
        }
        Ok(())
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<IpNet>, Mistakes> {
    let failed = |what: String| Mistakes { path: path.to_owned(), listed: vec![(0, what)], more: 0 };
    let mut text = String::new();
    let file =
        sys::open_regular(path).map_err(|error| failed(format!("{error}; check 'deny_file' in [guard]")))?;
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| failed(format!("{error}; it must be text in UTF-8")))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(failed("it is larger than 64 MiB; is it a list of networks?".to_owned()));
    }
    parse(&text).map_err(|(listed, more)| Mistakes { path: path.to_owned(), listed, more })
}

/// Lines that are no networks, and how many more there are.
type Wrong = (Vec<(usize, String)>, usize);

fn parse(text: &str) -> Result<Vec<IpNet>, Wrong> {
    let (mut networks, mut listed, mut more) = (Vec::new(), Vec::new(), 0);
    for (number, line) in (1..).zip(text.lines()) {
        let network = line.split('#').next().unwrap_or_default().trim();
        if network.is_empty() {
            continue;
        }
        match config::network(network) {
            Ok(network) => networks.push(network),
            Err(_) if listed.len() >= MAX_LISTED => more += 1,
            Err(what) => listed.push((number, what)),
        }
    }
    if listed.is_empty() { Ok(networks) } else { Err((listed, more)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_comments_and_empty_lines() {
        let text = "# a list\n\n10.0.0.0/8 # all of it\n\t2001:db8::/32\r\n192.0.2.7#one\n  # nothing\n";
        let networks: Vec<String> = parse(text).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]);
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn every_mistake_is_named_with_its_line_up_to_a_number() {
        let (listed, more) = parse("10.0.0.0/8\n10.0.0.1/8\nnonsense\n").unwrap_err();
        assert_eq!((listed.iter().map(|(line, _)| *line).collect::<Vec<_>>(), more), (vec![2, 3], 0));
        let (listed, more) = parse(&"x\n".repeat(100)).unwrap_err();
        assert_eq!((listed.len(), more), (20, 80));
        let text = Mistakes { path: "deny".into(), listed, more }.to_string();
        assert!(
            text.starts_with("deny:1: ") && text.ends_with("and 80 more lines that are no networks"),
            "{text}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let mistakes = read(Path::new("/nonexistent/deny.txt")).unwrap_err().to_string();
        assert!(mistakes.starts_with("/nonexistent/deny.txt: "), "{mistakes}");
    }
}
