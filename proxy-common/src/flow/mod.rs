//! The life of one flow, as decisions: how it ends and why, and how many bytes it carried.

mod bytes;
mod reason;
mod splice;
mod vigil;

pub use bytes::Meter;
pub use reason::{ConnectFailure, End, Reason, Side};
pub use splice::{Bounds, Leg, Look, Reading, Seen, Splice, Step};
pub use vigil::{Alarm, Vigil};
