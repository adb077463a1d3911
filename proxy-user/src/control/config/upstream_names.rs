//! The names of upstreams, and errors for names that no upstream has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::field::{At, Field};
use super::keys::closest;
use super::report::{Fault, Report, quote};

/// How many names an error lists.
const MAX_LISTED: usize = 8;

/// The upstreams by name, and in the order of the file.
pub(super) struct UpstreamNames<'r> {
    index: HashMap<&'r str, usize>,
    order: Vec<&'r str>,
    /// Whether the name of an upstream is missing, or there twice: it may be the one that seems unknown.
    is_incomplete: bool,
}

impl<'r> UpstreamNames<'r> {
    /// Of equal names the first counts; another rule reports the others. `has_unread`: there are upstreams that cannot be read.
    pub(super) fn of(all: impl Iterator<Item = &'r Field<String>>, has_unread: bool) -> Self {
        let mut names = Self { index: HashMap::new(), order: Vec::new(), is_incomplete: has_unread };
        for (index, name) in all.enumerate() {
            match name.given().map(|name| (&name.value, names.index.entry(&name.value))) {
                Some((name, Entry::Vacant(vacant))) => {
                    vacant.insert(index);
                    names.order.push(name);
                }
                _ => names.is_incomplete = true,
            }
        }
        names
    }

    pub(super) fn resolve(&self, to: &Field<String>, report: &mut Report<'_>) -> Option<usize> {
        self.find(to.given()?, report)
    }

    pub(super) fn find(&self, to: &At<String>, report: &mut Report<'_>) -> Option<usize> {
        let index = self.index.get(to.value.as_str()).copied();
        if index.is_none() && !self.is_incomplete {
            report.fault(to.at, |_| self.unknown(&to.value));
        }
        index
    }

    fn unknown(&self, name: &str) -> Fault {
        let listed: Vec<_> = self.order.iter().take(MAX_LISTED).map(|known| quote(known)).collect();
        let more = if self.order.len() > MAX_LISTED { " and others" } else { "" };
        let way_out = match closest(name, self.order.iter().copied()) {
            _ if listed.is_empty() => {
                format!("there is no [[upstream]] yet: add one with name = {}", quote(name))
            }
            Some(near) => format!("did you mean {}? There are {}{more}", quote(near), listed.join(", ")),
            None => format!("there are {}{more}", listed.join(", ")),
        };
        Fault::new(format!("unknown upstream {}", quote(name)), way_out)
    }
}
