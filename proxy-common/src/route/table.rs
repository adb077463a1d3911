//! The table that ranks routes. The most specific one wins, whatever the order in the file.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::Pattern;
use crate::hello::HostName;

/// Which connections go to which target: an upstream, or its place in a file that is being checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<T> {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The server names that it takes. Empty: it goes by `source` alone.
    pub sni: Vec<Pattern>,
    /// The networks whose clients it takes. Empty: all clients.
    pub source: Vec<IpNet>,
    /// Where they go.
    pub to: T,
    /// Whether it also takes what no other route takes (from `source`, if there is one).
    pub default: bool,
}

/// Routes in the order in which they are tried.
///
/// 1. The exact name.
/// 2. Patterns: more literal labels first, then those without `**`.
/// 3. Routes with `source` but without names, for any name or none.
/// 4. Default routes.
///
/// In each step, a route that is bound to the client's network goes before one that is not, and a longer
/// prefix before a shorter one. What is still equal goes by the order of the routes.
///
/// A client with an IPv4-mapped IPv6 address counts as IPv4: `::/0` does not hold it.
#[derive(Debug, Clone)]
pub struct Table<T> {
    routes: Vec<Route<T>>,
    exact: HashMap<HostName, Vec<Candidate>>,
    /// Sorted, the most specific first.
    wild: Vec<Candidate>,
    /// Sorted, the longest prefix first.
    by_source: Vec<Candidate>,
    /// Sorted, the longest prefix first.
    defaults: Vec<Candidate>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            routes: Vec::new(),
            exact: HashMap::new(),
            wild: Vec::new(),
            by_source: Vec::new(),
            defaults: Vec::new(),
        }
    }
}

/// One way to be taken by a route.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Index of the route.
    route: usize,
    /// Index into its names; 0 and unused where names do not matter.
    pattern: usize,
    /// The network that the client must be in.
    net: Option<IpNet>,
}

/// What [`Table::find`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Match<'a, T> {
    /// Where the connection goes.
    pub route: &'a Route<T>,
    /// Why it goes there.
    pub why: Why<'a>,
}

impl<T> Clone for Match<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Match<'_, T> {}

/// Why a route takes a connection. Displayed as the rest of a sentence that begins with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why<'a> {
    /// Its server name is in the route; where there is a network, its client is in that.
    Exact(&'a Pattern, Option<IpNet>),
    /// Its server name matches a pattern with wildcards; where there is a network, its client is in that.
    Pattern(&'a Pattern, Option<IpNet>),
    /// Its client is in the network of a route that takes any name.
    Source(IpNet),
    /// No other route takes it; where there is a network, its client is in that.
    Default(Option<IpNet>),
}

impl<T> Table<T> {
    /// Ranks `routes`. A route without names, source and default takes nothing.
    #[must_use]
    pub fn build(routes: Vec<Route<T>>) -> Self {
        let mut table = Self::default();
        for (index, route) in routes.iter().enumerate() {
            table.add(index, route);
        }
        let by_net = |candidate: &Candidate| narrowest_first(candidate.net);
        // Stable sorts: what is equal stays in the order of the file.
        table.exact.values_mut().for_each(|candidates| candidates.sort_by_key(by_net));
        table.by_source.sort_by_key(by_net);
        table.defaults.sort_by_key(by_net);
        table.wild.sort_by_cached_key(|candidate| {
            (candidate.pattern(&routes).map(Pattern::rank), narrowest_first(candidate.net))
        });
        table.routes = routes;
        table
    }

    fn add(&mut self, route: usize, of: &Route<T>) {
        for net in nets(of) {
            for (pattern, name) in of.sni.iter().enumerate() {
                let list = match name.exact() {
                    Some(exact) => self.exact.entry(exact.clone()).or_default(),
                    None => &mut self.wild,
                };
                list.push(Candidate { route, pattern, net });
            }
            let any_name = Candidate { route, pattern: 0, net };
            if of.default {
                self.defaults.push(any_name);
            } else if of.sni.is_empty() && net.is_some() {
                self.by_source.push(any_name);
            }
        }
    }

    /// The routes, in the order in which they were given.
    #[must_use]
    pub fn routes(&self) -> &[Route<T>] {
        &self.routes
    }

    /// The route for a connection that asks for `name`, if it asks for one, from a client at `source`.
    ///
    /// Takes one hash look-up and a walk over the patterns with wildcards; allocates nothing.
    #[must_use]
    pub fn find(&self, name: Option<&HostName>, source: IpAddr) -> Option<Match<'_, T>> {
        let source = source.to_canonical();
        name.and_then(|name| self.find_name(name, source))
            .or_else(|| self.first(&self.by_source, source, |candidate| candidate.net.map(Why::Source)))
            .or_else(|| self.first(&self.defaults, source, |candidate| Some(Why::Default(candidate.net))))
    }

    fn find_name(&self, name: &HostName, source: IpAddr) -> Option<Match<'_, T>> {
        let exact = self.exact.get(name).map(Vec::as_slice).unwrap_or_default();
        self.first(exact, source, |candidate| {
            Some(Why::Exact(candidate.pattern(&self.routes)?, candidate.net))
        })
        .or_else(|| {
            self.first(&self.wild, source, |candidate| {
                let pattern = candidate.pattern(&self.routes)?;
                pattern.matches(name).then_some(Why::Pattern(pattern, candidate.net))
            })
        })
    }

    /// The first of `candidates` that takes the source and for which there is a reason.
    fn first<'a>(
        &'a self,
        candidates: &[Candidate],
        source: IpAddr,
        why: impl Fn(&Candidate) -> Option<Why<'a>>,
    ) -> Option<Match<'a, T>> {
        let takes = |candidate: &Candidate| candidate.net.is_none_or(|net| net.contains(&source));
        candidates.iter().filter(|candidate| takes(candidate)).find_map(|candidate| {
            Some(Match { route: self.routes.get(candidate.route)?, why: why(candidate)? })
        })
    }

    /// Pairs of routes that ask for the same, so that the second never gets it: the same pattern for the same
    /// network (or both for all), the same network without names, or two defaults.
    ///
    /// Each pair is named once for each thing that it has in common, in the order of the second route.
    #[must_use]
    pub fn conflicts(routes: &[Route<T>]) -> Vec<Conflict> {
        let mut owners: HashMap<Overlap, usize> = HashMap::new();
        let mut conflicts = Vec::new();
        for (second, route) in routes.iter().enumerate() {
            for overlap in claims(route) {
                match owners.entry(overlap) {
                    Entry::Vacant(free) => {
                        free.insert(second);
                    }
                    Entry::Occupied(taken) if *taken.get() != second => {
                        let overlap = taken.key().clone();
                        conflicts.push(Conflict { first: *taken.get(), second, overlap });
                    }
                    // Said twice in one route: harmless.
                    Entry::Occupied(_) => {}
                }
            }
        }
        conflicts
    }
}

impl Candidate {
    fn pattern<'a, T>(&self, routes: &'a [Route<T>]) -> Option<&'a Pattern> {
        routes.get(self.route)?.sni.get(self.pattern)
    }
}

/// Two routes that ask for the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Index of the route that gets it.
    pub first: usize,
    /// Index of the route that never does.
    pub second: usize,
    /// What both ask for.
    pub overlap: Overlap,
}

/// What two routes both ask for. Displayed as the object of "both take".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Overlap {
    /// The same pattern, for all clients or for the same network.
    Pattern(Pattern, Option<IpNet>),
    /// The same network, without names.
    Source(IpNet),
    /// What is left: two defaults.
    Default,
}

/// All that a route asks for.
fn claims<T>(route: &Route<T>) -> impl Iterator<Item = Overlap> {
    let names = nets(route).into_iter().flat_map(|net| {
        let claim = move |pattern: &Pattern| Overlap::Pattern(pattern.clone(), net);
        route.sni.iter().map(claim)
    });
    let by_source = !route.default && route.sni.is_empty();
    let sources = nets(route).into_iter().flatten().filter(move |_| by_source).map(Overlap::Source);
    names.chain(sources).chain(route.default.then_some(Overlap::Default))
}

/// The networks of a route in canonical form; a single None when it takes all clients.
fn nets<T>(route: &Route<T>) -> Vec<Option<IpNet>> {
    if route.source.is_empty() {
        return vec![None];
    }
    route.source.iter().map(|&net| Some(canonical(net))).collect()
}

/// Without host bits; an IPv4-mapped network as the IPv4 network that it is.
fn canonical(net: IpNet) -> IpNet {
    let mapped = match net {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    let unmapped = mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    unmapped.map_or(net, IpNet::V4).trunc()
}

/// Sorts the longest prefix first, and no network last.
fn narrowest_first(net: Option<IpNet>) -> Reverse<Option<u8>> {
    Reverse(net.map(|net| net.prefix_len()))
}

/// Ends a sentence with the network, where there is one.
fn write_net(f: &mut fmt::Formatter<'_>, net: Option<IpNet>) -> fmt::Result {
    net.map_or(Ok(()), |net| write!(f, " for clients in {net}"))
}

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exact(name, net) => write!(f, "asks for {name}").and_then(|()| write_net(f, net)),
            Self::Pattern(pattern, net) => {
                write!(f, "matches pattern {pattern}").and_then(|()| write_net(f, net))
            }
            Self::Source(net) => write!(f, "comes from {net}"),
            Self::Default(net) => f.write_str("matches no other route").and_then(|()| write_net(f, net)),
        }
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(pattern, net) => write!(f, "{pattern}").and_then(|()| write_net(f, *net)),
            Self::Source(net) => write!(f, "any name from {net}"),
            Self::Default => f.write_str("what no other route takes"),
        }
    }
}
