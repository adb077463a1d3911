//! From the text of one value to what it means.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use proxy_common::plan::{Choice, Datapath};
use proxy_common::route::Pattern;

use super::keys::closest;
use super::report::{Fault, quote};
use crate::hub::snapshot::Server;

/// Longest name in bytes. Names become metric labels.
const MAX_NAME: usize = 63;

/// Longest host name and longest label of one (RFC 1035, section 2.3.4), in bytes.
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

/// Longest path of a Unix socket: `sun_path` with its closing zero (unix(7)), in bytes.
const MAX_SOCKET_PATH: usize = 107;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Bounds of a wait that must end and must be one.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;

/// Bounds of a hold: it may be none.
pub(super) const HOLD: RangeInclusive<Duration> = Duration::ZERO..=DAY;

/// The shortest idle timeout.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// Bounds of a budget of memory, in bytes.
const MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 40;

/// `[a-z0-9][a-z0-9_-]{0,62}`
pub(super) fn name(text: &str) -> Result<&str, Fault> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = text.len() <= MAX_NAME
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|c| plain(c) || c == b'_' || c == b'-');
    if good {
        return Ok(text);
    }
    Err(Fault::new(
        format!("{} is not a name", quote(text)),
        "use 1 to 63 of a-z, 0-9, '-' and '_', and begin with a letter or digit",
    ))
}

/// Where to listen: an address, not a name, and a port that is not 0.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, Fault> {
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

/// A server name, or a pattern of them. Its own error says what to do as well.
pub(super) fn pattern(text: &str) -> Result<Pattern, Fault> {
    Pattern::parse(text).map_err(|error| {
        let error = error.to_string();
        let (what, way_out) = error
            .split_once("; ")
            .unwrap_or((&error, "write a name, '*' for one label or '**' for one or more"));
        Fault::new(format!("{} is not a server name or a pattern: {what}", quote(text)), way_out)
    })
}

/// A range of client addresses. IPv4 clients are matched as IPv4 on every listener, so `::ffff:0:0/96` becomes
/// the IPv4 range that it stands for.
pub(super) fn source(text: &str) -> Result<IpNet, Fault> {
    let range = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        Fault::new(
            format!("{} is not a range of addresses", quote(text)),
            "write one such as \"10.0.0.0/8\" or \"2001:db8::/32\", or a single address",
        )
    })?;
    let range = mapped(range).map_or(range, IpNet::V4);
    if range != range.trunc() {
        return Err(Fault::new(
            format!("{} has bits set beyond its prefix", quote(text)),
            format!("write \"{}\" for the range or \"{}\" for the one address", range.trunc(), range.addr()),
        ));
    }
    Ok(range)
}

/// An IPv4-mapped range (RFC 4291, section 2.5.5.2) as IPv4.
fn mapped(range: IpNet) -> Option<Ipv4Net> {
    let IpNet::V6(range) = range else { return None };
    let prefix = range.prefix_len().checked_sub(96)?;
    Ipv4Net::new(range.addr().to_ipv4_mapped()?, prefix).ok()
}

/// A whole number and its unit, within `bounds`.
pub(super) fn duration(text: &str, bounds: &RangeInclusive<Duration>) -> Result<Duration, Fault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => 0,
    };
    if number.is_empty() || unit_ms == 0 {
        return Err(Fault::new(
            format!("{} is not a duration", quote(text)),
            "write a whole number and ms, s, m or h, for example \"250ms\", \"10s\" or \"5m\"",
        ));
    }
    let ms = number.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit_ms);
    let duration = Duration::from_millis(ms);
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let side = if duration > *bounds.end() { "long" } else { "short" };
    let least = if bounds.start().is_zero() { "\"0s\"" } else { "\"1ms\"" };
    Err(Fault::new(format!("{} is too {side}", quote(text)), format!("write {least} to \"24h\"")))
}

/// How long a flow may rest: for ever, or for long enough that a timer is worth it.
pub(super) fn idle(text: &str) -> Result<Duration, Fault> {
    let idle = duration(text, &HOLD)?;
    if idle.is_zero() || idle >= IDLE_MIN {
        return Ok(idle);
    }
    Err(Fault::new(
        format!("{} is too short", quote(text)),
        "write \"1s\" to \"24h\", or \"0s\" for no limit",
    ))
}

/// A size in memory, within bounds: a whole number and its unit.
pub(super) fn memory(text: &str) -> Result<u64, Fault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => 0,
    };
    if number.is_empty() || shift == 0 {
        return Err(Fault::new(
            format!("{} is not a size", quote(text)),
            "write a whole number and KiB, MiB or GiB, for example \"512MiB\"",
        ));
    }
    let bytes = number.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1 << shift);
    if MEMORY.contains(&bytes) {
        return Ok(bytes);
    }
    let side = if bytes > *MEMORY.end() { "large" } else { "small" };
    Err(Fault::new(format!("{} is too {side}", quote(text)), "write \"1MiB\" to \"1024GiB\""))
}

/// A range of ports, of which none is one that anybody may listen on.
pub(super) fn ports(text: &str) -> Result<RangeInclusive<u16>, Fault> {
    let bounds =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match bounds {
        Some((first, last)) if first >= 1024 && first <= last => Ok(first..=last),
        _ => Err(Fault::new(
            format!("{} is not a range of ports", quote(text)),
            "write two ports from 1024 to 65535, for example \"61000-65535\"",
        )),
    }
}

/// The path of something that the daemon makes.
pub(super) fn absolute(text: &str) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains('\0') {
        return Ok(path);
    }
    Err(Fault::new(format!("{} is not an absolute path", quote(text)), "write one that begins with /"))
}

/// The datapath of an upstream.
pub(super) fn datapath(text: &str) -> Result<Choice, Fault> {
    if text == "auto" {
        return Ok(Choice::Auto);
    }
    if let Some(datapath) = Datapath::ALL.into_iter().find(|datapath| datapath.name() == text) {
        return Ok(Choice::Only(datapath));
    }
    let known = || std::iter::once("auto").chain(Datapath::ALL.into_iter().map(Datapath::name));
    let way_out = match closest(text, known()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("write one of {}", known().collect::<Vec<_>>().join(", ")),
    };
    Err(Fault::new(format!("{} is not a datapath", quote(text)), way_out))
}

/// The path of the admin socket. Empty: none.
pub(super) fn socket(text: &str) -> Result<Option<PathBuf>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('/') || text.contains('\0') || text.ends_with('/') {
        return Err(Fault::new(
            format!("{} is not the path of a socket", quote(text)),
            "write an absolute path such as \"/run/snisplice/admin.sock\", or \"\" for no admin socket",
        ));
    }
    if text.len() > MAX_SOCKET_PATH {
        return Err(Fault::new(
            format!("the path of the socket has {} bytes", text.len()),
            format!("use a path of at most {MAX_SOCKET_PATH} bytes: the kernel takes no longer one"),
        ));
    }
    Ok(Some(PathBuf::from(text)))
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
