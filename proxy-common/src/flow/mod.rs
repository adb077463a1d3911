//! The life of one flow, as decisions: how it ends and why, and how many bytes it carried.

mod budget;
mod bulk_detector;
mod bytes;
mod gap;
mod idle;
mod liveness;
mod rate_gate;
mod reading;
mod reason;
mod sides;
mod teardown;

pub use budget::{Budget, Change};
pub use bulk_detector::BulkDetector;
pub use bytes::Meter;
pub use gap::{Access, Gap};
pub use idle::Idle;
pub use liveness::{Alarm, Liveness};
pub use rate_gate::{RateGate, Turned};
pub use reading::{Leg, Reading};
pub use reason::{ConnectFailure, End, Reason, Side};
pub use sides::Sides;
pub use teardown::{Bounds, Look, Seen, Step, Teardown};
