//! Addresses: what is listened on, and what is connected to.

use std::net::{IpAddr, SocketAddr};

use super::report::{Fault, quote};
use crate::hub::snapshot::Server;

/// Longest host name and longest label of one (RFC 1035, section 2.3.4), in bytes.
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

/// Where to listen: an address, not a name, and a port that is not 0.
pub(super) fn listen(text: &str) -> Result<SocketAddr, Fault> {
    let address: SocketAddr = text.parse().map_err(|_| {
        let form = match text.rsplit_once(':') {
            _ if text.parse::<IpAddr>().is_ok() => "add the port, and write an IPv6 address in brackets",
            Some(("" | "*", _)) => "write [::] before the port to listen on every address",
            _ => "write IP:port",
        };
        Fault::new(
            format!("{} is not an address to listen on", quote(text)),
            format!("{form}, for example \"[::]:443\" or \"192.0.2.1:443\""),
        )
    })?;
    port(text, address.port())?;
    Ok(address)
}

/// Where to connect to: `IP:port` or `host:port`.
pub(super) fn server(text: &str) -> Result<Server, Fault> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        port(text, address.port())?;
        // By IPv4 it is connected to, and its packets say so.
        let ip = address.ip().to_canonical();
        let address = if ip == address.ip() { address } else { SocketAddr::new(ip, address.port()) };
        return Ok(Server::Address(address));
    }
    let not_a_server = |way_out: &str| {
        Fault::new(
            format!("{} is not a server", quote(text)),
            format!(
                "{way_out}, for example \"10.0.0.5:8443\", \"[2001:db8::5]:8443\" or \"backend.example:8443\""
            ),
        )
    };
    if text.parse::<IpAddr>().is_ok() {
        return Err(not_a_server("add the port, and write an IPv6 address in brackets"));
    }
    let (host, number) = text.rsplit_once(':').ok_or_else(|| not_a_server("add the port"))?;
    let digits = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
    let number: u16 =
        number.parse().ok().filter(|_| digits).ok_or_else(|| not_a_server("write a port from 1 to 65535"))?;
    if !is_host(host) {
        return Err(not_a_server("write IP:port or host:port"));
    }
    port(text, number)?;
    Ok(Server::Name { host: host.to_owned(), port: number })
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
    Ok(Some(address))
}
