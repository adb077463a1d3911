//! What differs between two configurations.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use proxy_common::route::Route;

use crate::hub::snapshot::{Listener, Snapshot, Upstream};

/// One difference. Displayed as a sentence without its full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) part: Part,
    pub(crate) how: How,
}

/// A part of a configuration that changes as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Listener(Arc<str>),
    Route(Arc<str>),
    Upstream(Arc<str>),
    Timeouts,
    Limits,
    Guard,
    Packet,
    Admin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Added,
    Removed,
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Listener(name) => write!(f, "listener \"{name}\""),
            Part::Route(name) => write!(f, "route \"{name}\""),
            Part::Upstream(name) => write!(f, "upstream \"{name}\""),
            Part::Timeouts => f.write_str("[timeouts]"),
            Part::Limits => f.write_str("[limits]"),
            Part::Guard => f.write_str("[guard]"),
            Part::Packet => f.write_str("[packet]"),
            Part::Admin => f.write_str("[admin]"),
        }?;
        f.write_str(match self.how {
            How::Added => " added",
            How::Removed => " removed",
            How::Changed => " changed",
        })
    }
}

/// All differences, in the order of the reference: what is new or different first, then what has gone. The order of
/// listeners, routes and upstreams means nothing, and is no difference.
pub(crate) fn diff(old: &Snapshot, new: &Snapshot) -> Vec<Change> {
    let mut changes = named(&listeners(old), &listeners(new), Part::Listener);
    changes.extend(named(&routes(old), &routes(new), Part::Route));
    changes.extend(named(&upstreams(old), &upstreams(new), Part::Upstream));
    let sections = [
        (Part::Timeouts, (old.timeouts != new.timeouts).then_some(How::Changed)),
        (Part::Limits, (old.limits != new.limits).then_some(How::Changed)),
        (Part::Guard, section(old.guard.as_ref(), new.guard.as_ref())),
        (Part::Packet, (old.packet != new.packet).then_some(How::Changed)),
        (Part::Admin, (old.admin != new.admin).then_some(How::Changed)),
    ];
    changes.extend(sections.into_iter().filter_map(|(part, how)| Some(Change { part, how: how? })));
    changes
}

/// Of an upstream that a part names only its name counts: an upstream that changes changes no route.
type Named<T> = Vec<(Arc<str>, T)>;

fn listeners(of: &Snapshot) -> Named<(&[SocketAddr], Option<&str>)> {
    fn listener(one: &Arc<Listener>) -> (Arc<str>, (&[SocketAddr], Option<&str>)) {
        let to = one.to.as_ref().map(|upstream| &*upstream.name);
        (Arc::clone(&one.name), (&*one.addresses, to))
    }
    of.listeners.iter().map(listener).collect()
}

fn routes(of: &Snapshot) -> Named<Route<&str>> {
    fn route(one: &Route<Arc<Upstream>>) -> (Arc<str>, Route<&str>) {
        let Route { name, sni, source, to, default } = one;
        let (name, sni, source) = (Arc::clone(name), sni.clone(), source.clone());
        (Arc::clone(&name), Route { name, sni, source, to: &*to.name, default: *default })
    }
    of.routes.routes().iter().map(route).collect()
}

fn upstreams(of: &Snapshot) -> Named<&Upstream> {
    of.upstreams.iter().map(|one| (Arc::clone(&one.name), &**one)).collect()
}

fn section<T: PartialEq>(old: Option<&T>, new: Option<&T>) -> Option<How> {
    match (old, new) {
        (None, Some(_)) => Some(How::Added),
        (Some(_), None) => Some(How::Removed),
        (old, new) => (old != new).then_some(How::Changed),
    }
}

fn named<T: PartialEq>(old: &Named<T>, new: &Named<T>, part: impl Fn(Arc<str>) -> Part) -> Vec<Change> {
    let mut last: HashMap<_, _> = old.iter().map(|(name, value)| (name, value)).collect();
    let mut changes = Vec::new();
    for (name, value) in new {
        let how = match last.remove(name) {
            None => Some(How::Added),
            Some(before) => (before != value).then_some(How::Changed),
        };
        changes.extend(how.map(|how| Change { part: part(Arc::clone(name)), how }));
    }
    let is_gone = |name: &Arc<str>| last.contains_key(name);
    let gone = old.iter().map(|(name, _)| name).filter(|name| is_gone(name));
    changes.extend(gone.map(|name| Change { part: part(Arc::clone(name)), how: How::Removed }));
    changes
}
