//! Servers of an upstream, as decisions: which one a connection tries, when it tries again, and whether a server is up.

mod attempts;
mod health;

pub use attempts::{Attempts, Pause, time_per_address};
pub use health::{ServerHealth, ServerNews, ServerState};
