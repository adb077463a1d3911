//! Sections and keys that are not known: what was most likely meant.

use super::keys::{self, Section, closest};
use super::report::{Fault, quote};

pub(super) fn unknown_section(name: &str) -> Fault {
    let way_out = match closest(name, keys::SECTIONS.iter().map(|section| section.name)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => belongs_to(name).unwrap_or_else(|| {
            let known: Vec<_> = keys::SECTIONS.iter().map(ToString::to_string).collect();
            format!("remove it; the sections are {}", known.join(", "))
        }),
    };
    Fault::new(format!("unknown section {}", quote(name)), way_out)
}

pub(super) fn unknown_key(name: &str, section: &Section) -> Fault {
    let way_out = match closest(name, section.keys.iter().map(|known| known.name)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => belongs_to(name).unwrap_or_else(|| {
            let known: Vec<_> = section.keys.iter().map(|known| known.name).collect();
            format!("remove it; the keys are {}", known.join(", "))
        }),
    };
    Fault::new(format!("unknown key {} in {section}", quote(name)), way_out)
}

/// The advice for a key that is a good one in another place.
fn belongs_to(name: &str) -> Option<String> {
    let mut homes = keys::SECTIONS.iter().filter(|section| section.keys.iter().any(|key| key.name == name));
    homes.next().map(|section| format!("'{name}' is a key of {section}: move it there"))
}
