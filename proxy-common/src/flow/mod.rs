//! The life of one flow, as decisions: how it ends and why, and how many bytes it carried.

mod budget;
mod bytes;
mod gap;
mod idle;
mod proof;
mod reading;
mod reason;
mod server;
mod splice;
mod streak;
mod vigil;

pub use budget::{Budget, Change};
pub use bytes::Meter;
pub use gap::{Access, Gap};
pub use idle::Idle;
pub use proof::{Proof, Turned};
pub use reading::{Leg, Reading};
pub use reason::{ConnectFailure, End, Reason, Side};
pub use server::{ServerHealth, ServerNews, ServerState};
pub use splice::{Bounds, Look, Seen, Splice, Step};
pub use streak::Streak;
pub use vigil::{Alarm, Vigil};
