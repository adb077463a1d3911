//! Netlink (netlink(7)): questions to the kernel about routes, interfaces, filters and tracked connections, and its reports of
//! changes.

mod changes;
mod conntrack;
mod filters;
mod message;
mod route_events;
mod routes;
mod socket;

pub(crate) use self::changes::Changes;
pub(crate) use self::conntrack::{relax, track, untrack};
pub(crate) use self::filters::{filter_program, filters_before};
pub(crate) use self::route_events::{Moves, News};
pub(crate) use self::routes::{Device, Router, device, route, xdp_program};
