//! Where a connection goes: host-name patterns, source networks, and the table that ranks them.

mod pattern;
mod table;

pub use pattern::{Pattern, PatternError};
pub use table::{Conflict, Match, Overlap, Route, Table, Why};
