//! Where the good values of entries stand, for the rules that compare them.

use std::net::SocketAddr;

use ipnet::IpNet;
use proxy_common::route::Pattern;

use super::field::At;
use crate::hub::Server;

/// Good values with their places, for the rules that compare them.
#[derive(Default)]
pub(super) struct Places {
    pub(super) listens: Vec<At<SocketAddr>>,
    pub(super) servers: Vec<At<Server>>,
    /// In the order of the routes.
    pub(super) routes: Vec<RoutePlaces>,
}

pub(super) struct RoutePlaces {
    pub(super) route: usize,
    pub(super) default: usize,
    pub(super) sni: Vec<At<Pattern>>,
    pub(super) source: Vec<At<IpNet>>,
}
