//! Where a connection would go, and why: the pure part of `snisplice route`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proxy_common::hello::{HostName, NameError};
use proxy_common::plan::Choice;
use proxy_common::route::{Match, Route, Table};
use serde::Serialize;

use crate::hub::snapshot::{Listener, Snapshot, Upstream};

/// The way of one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Explanation {
    /// The server name as it is compared. None: the client sends none.
    pub(crate) sni: Option<String>,
    /// None: any client that no route names by its network.
    pub(crate) source: Option<IpAddr>,
    pub(crate) listener: String,
    /// None: the listener has a fixed upstream, or nothing matches.
    pub(crate) route: Option<String>,
    /// None: nothing matches, and the connection is closed.
    pub(crate) upstream: Option<String>,
    /// Empty without an upstream.
    pub(crate) servers: Vec<String>,
    /// What the configuration asks for; what the kernel can do is not looked at. None without an upstream.
    pub(crate) datapath: Option<&'static str>,
    /// The end of a sentence that begins with "because it".
    pub(crate) why: String,
    /// Routes with `source` that were left out because no source was given.
    pub(crate) left_out: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    #[error("there is no listener {name:?}; the listeners are {known}")]
    UnknownListener { name: String, known: String },
    #[error("{name:?} is not a server name: {error}")]
    NotAName { name: String, error: NameError },
    /// Not with a snapshot that the configuration made.
    #[error("the configuration has no listener; add a [[listen]]")]
    NoListener,
}

/// Follows one connection through the snapshot, as the front would.
///
/// Without `listener`, the first one that routes by name. Without `source`, the routes that are bound to a
/// network are left out.
pub(crate) fn explain(
    snapshot: &Snapshot,
    sni: Option<&str>,
    source: Option<IpAddr>,
    listener: Option<&str>,
) -> Result<Explanation, ExplainError> {
    let name = sni
        .map(|name| {
            HostName::parse(name).map_err(|error| ExplainError::NotAName { name: name.to_owned(), error })
        })
        .transpose()?;
    let listener = find_listener(snapshot, listener)?;
    let mut explanation = Explanation {
        sni: name.as_ref().map(ToString::to_string),
        source,
        listener: listener.name.to_string(),
        route: None,
        upstream: None,
        servers: Vec::new(),
        datapath: None,
        why: "matches no route, and there is no default route".to_owned(),
        left_out: 0,
    };
    if let Some(upstream) = &listener.to {
        explanation.go_to(upstream);
        explanation.why = format!("arrives at listener \"{}\", which sends all there", listener.name);
    } else if let Some(source) = source {
        explanation.take_route(snapshot.routes.find(name.as_ref(), source));
    } else {
        let routes = snapshot.routes.routes();
        let for_all: Vec<Route<_>> = routes.iter().filter(|route| route.source.is_empty()).cloned().collect();
        explanation.left_out = routes.len() - for_all.len();
        // None of these looks at the source, so any address will do.
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        explanation.take_route(Table::build(for_all).find(name.as_ref(), any));
    }
    Ok(explanation)
}

impl Explanation {
    fn take_route(&mut self, found: Option<Match<'_, Arc<Upstream>>>) {
        if let Some(Match { route, why }) = found {
            self.route = Some(route.name.to_string());
            self.why = why.to_string();
            self.go_to(&route.to);
        }
    }

    fn go_to(&mut self, upstream: &Upstream) {
        self.upstream = Some(upstream.name.to_string());
        self.servers = upstream.servers().map(ToString::to_string).collect();
        self.datapath = Some(match upstream.datapath {
            Choice::Auto => "auto",
            Choice::Only(datapath) => datapath.name(),
        });
    }
}

fn find_listener<'s>(snapshot: &'s Snapshot, name: Option<&str>) -> Result<&'s Listener, ExplainError> {
    let listeners = &snapshot.listeners;
    let Some(name) = name else {
        let by_name = listeners.iter().find(|listener| listener.to.is_none());
        return by_name.or(listeners.first()).map(Arc::as_ref).ok_or(ExplainError::NoListener);
    };
    listeners.iter().find(|listener| *listener.name == *name).map(Arc::as_ref).ok_or_else(|| {
        let known: Vec<_> = listeners.iter().map(|listener| &*listener.name).collect();
        ExplainError::UnknownListener { name: name.to_owned(), known: known.join(", ") }
    })
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sni.as_deref().unwrap_or("a client without server name"))?;
        if let Some(source) = self.source {
            write!(f, " from {source}")?;
        }
        if let Some(route) = &self.route {
            write!(f, " -> route \"{route}\"")?;
        }
        match (&self.upstream, self.datapath) {
            (Some(name), Some(datapath)) => {
                write!(f, " -> upstream \"{name}\" ({}, datapath {datapath})", self.servers.join(", "))?;
            }
            _ => f.write_str(" -> no route, the connection is closed")?,
        }
        write!(f, "\nbecause it {}", self.why)?;
        if self.left_out > 0 {
            write!(f, "\nroutes with 'source' left out: {}; name a client to include them", self.left_out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config;
    use crate::hub::UpstreamRegistry;

    const CONFIG: &str = r#"
        [[listen]]
        name = "legacy"
        address = "[::]:10943"
        to = "octopus"
        [[listen]]
        name = "tls"
        address = "[::]:443"
        [[route]]
        name = "polling"
        sni = "polling.**"
        to = "octopus"
        [[route]]
        name = "inside"
        source = "10.0.0.0/8"
        to = "web"
        [[upstream]]
        name = "octopus"
        servers = ["10.0.0.5:10943", "backend.example:10943"]
        [[upstream]]
        name = "web"
        servers = "10.0.0.6:8443"
        datapath = "copy"
    "#;

    fn ask(
        sni: Option<&str>,
        source: Option<&str>,
        listener: Option<&str>,
    ) -> Result<Explanation, ExplainError> {
        let snapshot =
            config::parse(CONFIG, "test.toml", &config::Host::default(), &UpstreamRegistry::default())
                .unwrap()
                .snapshot;
        explain(&snapshot, sni, source.map(|source| source.parse().unwrap()), listener)
    }

    #[test]
    fn a_route_is_named_with_its_upstream_and_the_reason() {
        let snapshot = config::parse(
            config::DEFAULT,
            "default.toml",
            &config::Host::default(),
            &UpstreamRegistry::default(),
        )
        .unwrap()
        .snapshot;
        let source = "10.1.2.3".parse().unwrap();
        let answer = explain(&snapshot, Some("Polling.example.com."), Some(source), None).unwrap();
        assert_eq!(
            answer.to_string(),
            "polling.example.com from 10.1.2.3 -> route \"polling\" -> upstream \"octopus-polling\" \
             (127.0.0.1:10943, datapath auto)\nbecause it matches pattern polling.**"
        );
        let answer = explain(&snapshot, Some("www.example.com"), None, None).unwrap();
        assert_eq!(
            answer.to_string(),
            "www.example.com -> route \"web\" -> upstream \"octopus-web\" (127.0.0.1:8443, datapath auto)\n\
             because it matches no other route"
        );
    }

    #[test]
    fn the_first_listener_without_a_fixed_upstream_is_taken() {
        let answer = ask(Some("polling.a"), Some("192.0.2.1"), None).unwrap();
        assert_eq!((answer.listener.as_str(), answer.route.as_deref()), ("tls", Some("polling")));
        let answer = ask(Some("www.a"), Some("::ffff:10.1.1.1"), Some("tls")).unwrap();
        assert_eq!(answer.route.as_deref(), Some("inside"));
        assert_eq!(answer.datapath, Some("copy"));
    }

    #[test]
    fn a_fixed_upstream_needs_no_route() {
        let answer = ask(None, None, Some("legacy")).unwrap();
        assert_eq!(
            answer.to_string(),
            "a client without server name -> upstream \"octopus\" (10.0.0.5:10943, backend.example:10943, \
             datapath auto)\nbecause it arrives at listener \"legacy\", which sends all there"
        );
    }

    #[test]
    fn no_route_is_said_and_so_are_routes_left_out() {
        let answer = ask(Some("www.a"), None, None).unwrap();
        assert_eq!((answer.upstream.as_ref(), answer.left_out), (None, 1));
        assert_eq!(
            answer.to_string(),
            "www.a -> no route, the connection is closed\n\
             because it matches no route, and there is no default route\n\
             routes with 'source' left out: 1; name a client to include them"
        );
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let error = ask(Some("10.0.0.1"), None, None).unwrap_err().to_string();
        assert!(error.starts_with("\"10.0.0.1\" is not a server name: "), "{error}");
        let error = ask(Some("a"), None, Some("tsl")).unwrap_err().to_string();
        assert_eq!(error, "there is no listener \"tsl\"; the listeners are legacy, tls");
    }

    #[test]
    fn json_has_every_field() {
        let json = serde_json::to_value(ask(Some("polling.a"), Some("192.0.2.1"), None).unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "sni": "polling.a", "source": "192.0.2.1", "listener": "tls", "route": "polling",
                "upstream": "octopus", "servers": ["10.0.0.5:10943", "backend.example:10943"],
                "datapath": "auto",
                "why": "matches pattern polling.**", "left_out": 0,
            })
        );
    }
}
