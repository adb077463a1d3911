//! Lines for people: one per step, coloured and counting on a terminal, plain and rare in a log.

use std::env;
use std::io::{IsTerminal, Write, stdout};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How often a long step says that it is still alive when nobody watches a terminal.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// What a coloured word means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Bad,
    Loud,
}

/// True when standard output is a terminal.
pub(crate) fn on_terminal() -> bool {
    static TERMINAL: OnceLock<bool> = OnceLock::new();
    *TERMINAL.get_or_init(|| stdout().is_terminal())
}

/// Colours `text` on a terminal, unless the user has set `NO_COLOR`.
pub(crate) fn paint(tone: Tone, text: &str) -> String {
    if !on_terminal() || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Bad => "1;31",
        Tone::Loud => "1;33",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// One line of work: says what begins, that it goes on, and how it ended.
pub(crate) struct Step {
    title: String,
    began: Instant,
    beat: Instant,
}

impl Step {
    pub(crate) fn begin(title: &str) -> Self {
        let now = Instant::now();
        if on_terminal() {
            print!("  ..   {title}");
            // A terminal that is gone is no reason to stop the work.
            let _ = stdout().flush();
        } else {
            println!("  ..   {title}");
        }
        Self { title: title.to_owned(), began: now, beat: now }
    }

    /// To be called about once a second. `note` is how far it has come.
    pub(crate) fn tick(&mut self, note: &str) {
        let every = if on_terminal() { Duration::from_secs(1) } else { HEARTBEAT };
        if self.beat.elapsed() < every {
            return;
        }
        self.beat = Instant::now();
        let seconds = self.began.elapsed().as_secs();
        if on_terminal() {
            print!("\r\x1b[K  ..   {} ({seconds} s) {note}", self.title);
            let _ = stdout().flush();
        } else {
            println!("       {} ({seconds} s) {note}", self.title);
        }
    }

    pub(crate) fn end(&self, tone: Tone, note: &str) {
        let word = match tone {
            Tone::Good => "ok  ",
            Tone::Bad => "FAIL",
            Tone::Loud => "SKIP",
        };
        let back = if on_terminal() { "\r\x1b[K" } else { "" };
        let space = if note.is_empty() { "" } else { " " };
        let seconds = self.began.elapsed().as_secs_f32();
        println!("{back}  {} {} ({seconds:.1} s){space}{note}", paint(tone, word), self.title);
    }
}

/// Says one thing that is about to be done or was found.
pub(crate) fn say(text: &str) {
    println!("  ..   {text}");
}
