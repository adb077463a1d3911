//! Addresses: what is listened on, and what is connected to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::report::{Fault, quote};
use super::value;
use crate::hub::Server;

/// Longest host name and longest label of one (RFC 1035, section 2.3.4), in bytes.
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

/// Where to listen: an address, not a name, and a port that is not 0. An IPv4 address in IPv6 form is one of IPv4.
pub(super) fn listen(text: &str) -> Result<SocketAddr, Fault> {
    let link_local = |port: u16| {
        Fault::new(
            format!("{} is a link-local address, which cannot be listened on by itself", quote(text)),
            format!("write \"[::]:{port}\", which takes connections to it as well"),
        )
    };
    if let Some(scoped) = Scoped::read(text) {
        return Err(link_local(scoped.port));
    }
    let address: SocketAddr = text.parse().map_err(|_| {
        let form = wrong_form(text).unwrap_or_else(|| match text.rsplit_once(':') {
            Some(("" | "*", _)) => "write [::] before the port to listen on every address".to_owned(),
            _ => "write IP:port".to_owned(),
        });
        Fault::new(
            format!("{} is not an address to listen on", quote(text)),
            with_example(form, "\"[::]:443\" or \"192.0.2.1:443\""),
        )
    })?;
    port(text, address.port())?;
    if is_link_local(address.ip()) {
        return Err(link_local(address.port()));
    }
    Ok(canonical(address))
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// `[fe80::1%eth0]:443`: an address, the interface that it is to be reached by, and a port.
struct Scoped<'t> {
    ip: Ipv6Addr,
    interface: &'t str,
    port: u16,
}

impl<'t> Scoped<'t> {
    fn read(text: &'t str) -> Option<Self> {
        let (inner, port) = text.strip_prefix('[')?.rsplit_once("]:")?;
        let (ip, interface) = inner.split_once('%')?;
        Some(Self { ip: ip.parse().ok()?, interface, port: read_port(port)? })
    }

    fn server(&self, text: &str) -> Result<Server, Fault> {
        let Self { ip, interface, port: number } = *self;
        if !ip.is_unicast_link_local() {
            return Err(Fault::new(
                format!(
                    "{} names an interface, which only a link-local address (fe80::/10) needs",
                    quote(text)
                ),
                format!("write \"[{ip}]:{number}\""),
            ));
        }
        port(text, number)?;
        Ok(Server::LinkLocal { ip, interface: value::interface(interface)?, port: number })
    }
}

/// Advice and an example, where the advice does not give one.
fn with_example(way_out: String, example: &str) -> String {
    if way_out.contains('"') { way_out } else { format!("{way_out}, for example {example}") }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    let ip = address.ip().to_canonical();
    if ip == address.ip() { address } else { SocketAddr::new(ip, address.port()) }
}

/// Where to connect to: `IP:port` or `host:port`. By IPv4 where it is IPv4 in IPv6 form, as its packets say.
pub(super) fn server(text: &str) -> Result<Server, Fault> {
    if let Some(scoped) = Scoped::read(text) {
        return scoped.server(text);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        port(text, address.port())?;
        if is_link_local(address.ip()) {
            return Err(Fault::new(
                format!("{} is a link-local address, and does not say on which interface", quote(text)),
                format!("add it, such as \"[{}%eth0]:{}\"", address.ip(), address.port()),
            ));
        }
        return Ok(Server::Address(canonical(address)));
    }
    let not_a_server = |way_out: &str| {
        Fault::new(
            format!("{} is not a server", quote(text)),
            with_example(
                way_out.to_owned(),
                "\"10.0.0.5:8443\", \"[2001:db8::5]:8443\" or \"backend.example:8443\"",
            ),
        )
    };
    if let Some(form) = wrong_form(text) {
        return Err(not_a_server(&form));
    }
    let (host, number) = text.rsplit_once(':').ok_or_else(|| not_a_server("add the port"))?;
    let number = read_port(number).ok_or_else(|| not_a_server("write a port from 1 to 65535"))?;
    if !is_host(host) {
        return Err(not_a_server("write IP:port or host:port"));
    }
    port(text, number)?;
    Ok(Server::Name { host: host.to_owned(), port: number })
}

/// What to do where an IP address is there, and its port, its brackets or both are not as they must be.
fn wrong_form(text: &str) -> Option<String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        // In `2001:db8::1:443` the last part may be meant as the port.
        let (head, last) = text.rsplit_once(':').unwrap_or_default();
        return Some(match (ip, bracketed(head, last)) {
            (IpAddr::V4(_), _) => "add the port".to_owned(),
            (IpAddr::V6(_), Some(meant)) => format!("add the port, or write {meant} if that is the port"),
            (IpAddr::V6(_), None) => "add the port, and write an IPv6 address in brackets".to_owned(),
        });
    }
    let (head, last) = text.rsplit_once(':')?;
    if let Some(meant) = bracketed(head, last) {
        return Some(format!("write {meant}, with an IPv6 address in brackets"));
    }
    let inner = head.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let has_address = match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => head.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
    };
    if has_address && read_port(last).is_none() {
        return Some("write a port from 1 to 65535".to_owned());
    }
    let whole = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    whole.and_then(|whole| whole.parse::<Ipv6Addr>().ok()).map(|_| "add the port".to_owned())
}

/// `[head]:port` in quotes, if that is an IPv6 address and a port.
fn bracketed(head: &str, port: &str) -> Option<String> {
    head.parse::<Ipv6Addr>().ok()?;
    read_port(port).filter(|port| *port != 0)?;
    Some(format!("\"[{head}]:{port}\""))
}

fn read_port(text: &str) -> Option<u16> {
    if text.bytes().all(|c| c.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn port(text: &str, port: u16) -> Result<(), Fault> {
    if port == 0 {
        return Err(Fault::new(
            format!("port 0 in {} is not a port", quote(text)),
            "write a port from 1 to 65535",
        ));
    }
    Ok(())
}

/// A host name that a resolver may be asked for. The last label of one is never a number: what looks so is a
/// mistyped IPv4 address. Underscores are not for host names, yet resolvers know such names.
fn is_host(host: &str) -> bool {
    let good = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let labels = host.strip_suffix('.').unwrap_or(host);
    let last = labels.rsplit('.').next().unwrap_or_default();
    labels.len() <= MAX_HOST && labels.split('.').all(good) && !last.bytes().all(|c| c.is_ascii_digit())
}

/// A name that the read-only HTTP may be asked by, without a final dot.
pub(super) fn own_host(text: &str) -> Result<String, Fault> {
    if !is_host(text) {
        return Err(Fault::new(
            format!("{} is not a host name", quote(text)),
            "write a name such as \"metrics.example.com\", without a port; IP addresses and localhost need not be listed",
        ));
    }
    Ok(text.strip_suffix('.').unwrap_or(text).to_owned())
}

/// The address of the read-only HTTP. Empty: none.
pub(super) fn http(text: &str) -> Result<Option<SocketAddr>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: SocketAddr = text.parse().map_err(|_| {
        Fault::new(
            format!("{} is not an IP:port", quote(text)),
            "write a loopback address such as \"127.0.0.1:10944\", or \"\" for no HTTP",
        )
    })?;
    port(text, address.port())?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(Fault::new(
            format!("{} is not a loopback address, and the admin HTTP has no authentication", quote(text)),
            "write \"127.0.0.1:PORT\" or \"[::1]:PORT\", and put a proxy that authenticates before it",
        ));
    }
    Ok(Some(canonical(address)))
}
