//! Colour is for people who look at a terminal and have not switched it off.

use std::env;
use std::ffi::OsStr;
use std::io::IsTerminal;

/// Whether `stream` is to be coloured: it is a terminal, and `NO_COLOR` is not set, or empty
/// (<https://no-color.org>).
pub(crate) fn is_wanted(stream: &impl IsTerminal) -> bool {
    decide(stream.is_terminal(), env::var_os("NO_COLOR").as_deref())
}

fn decide(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_colour_unless_the_user_has_switched_it_off() {
        assert!(decide(true, None) && decide(true, Some(OsStr::new(""))));
        assert!(!decide(true, Some(OsStr::new("1"))) && !decide(true, Some(OsStr::new("0"))));
        assert!(!decide(false, None));
    }
}
