//! Questions to the kernel over netlink sockets (netlink(7)), and what it reports.

mod conntrack;
mod filters;
mod route_events;
mod routes;

pub(crate) use self::conntrack::{relax, track, untrack};
pub(crate) use self::filters::{filter_program, filters_before};
pub(crate) use self::route_events::{Moves, News};
pub(crate) use self::routes::{Device, Router, device, route};
