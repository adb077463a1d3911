//! From the text of one value to what it means.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use proxy_common::plan::{Choice, Datapath};
use proxy_common::route::Pattern;

use super::keys::closest;
use super::report::{Fault, quote};
use super::syntax::is_windows_path;

/// Longest name in bytes. Names become metric labels.
const MAX_NAME: usize = 63;

/// Longest path of a Unix socket: `sun_path` with its closing zero (unix(7)), in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Longest name of an interface (`IFNAMSIZ` with its closing zero).
const MAX_INTERFACE: usize = 15;

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

/// The name of an interface, which need not be there.
pub(super) fn interface(text: &str) -> Result<Arc<str>, Fault> {
    let good = (1..=MAX_INTERFACE).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b'/' | b':' | b'"' | b'\\'))
        && !matches!(text, "." | "..");
    if good {
        return Ok(Arc::from(text));
    }
    Err(Fault::new(
        format!("{} is not the name of an interface", quote(text)),
        "write one that `ip link` shows, such as \"eth0\"",
    ))
}

/// A server name, or a pattern of them. Its own error says what to do as well.
pub(super) fn pattern(text: &str) -> Result<Pattern, Fault> {
    Pattern::parse(text).map_err(|error| {
        let what = format!("{} is not a server name or a pattern: {}", quote(text), error.what());
        Fault::new(what, error.remedy())
    })
}

/// A range of client addresses without bits beyond its prefix.
pub(super) fn source(text: &str) -> Result<IpNet, Fault> {
    let range = network(text)?;
    match bits_beyond(&range) {
        Some(fault) => Err(fault),
        None => Ok(range),
    }
}

/// What is strange about a range in which bits beyond the prefix are set.
pub(super) fn bits_beyond(range: &IpNet) -> Option<Fault> {
    if *range == range.trunc() {
        return None;
    }
    Some(Fault::new(
        format!("\"{range}\" has bits set beyond its prefix"),
        format!("write \"{}\" for the range or \"{}\" for the one address", range.trunc(), range.addr()),
    ))
}

/// A range of client addresses. IPv4 clients are matched as IPv4 on every listener, so `::ffff:0:0/96` becomes
/// the IPv4 range that it stands for.
pub(super) fn network(text: &str) -> Result<IpNet, Fault> {
    let range = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        Fault::new(
            format!("{} is not a range of addresses", quote(text)),
            "write one such as \"10.0.0.0/8\" or \"2001:db8::/32\", or a single address",
        )
    })?;
    Ok(mapped(range).map_or(range, IpNet::V4))
}

/// An IPv4-mapped range (RFC 4291, section 2.5.5.2) as IPv4.
fn mapped(range: IpNet) -> Option<Ipv4Net> {
    let IpNet::V6(range) = range else { return None };
    let prefix = range.prefix_len().checked_sub(96)?;
    Ipv4Net::new(range.addr().to_ipv4_mapped()?, prefix).ok()
}

/// The path of something that the daemon makes.
pub(super) fn absolute(text: &str) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains('\0') {
        return Ok(path);
    }
    Err(windows_path(text).unwrap_or_else(|| {
        Fault::new(format!("{} is not an absolute path", quote(text)), "write one that begins with '/'")
    }))
}

fn windows_path(text: &str) -> Option<Fault> {
    let way_out = "write a Unix path, such as \"/run/snisplice/admin.sock\"";
    is_windows_path(text).then(|| Fault::new(format!("{} is a path of Windows", quote(text)), way_out))
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

/// A datapath that the daemon is to have.
pub(super) fn required(text: &str) -> Result<Datapath, Fault> {
    match datapath(text)? {
        Choice::Only(datapath) => Ok(datapath),
        Choice::Auto => {
            Err(Fault::new("\"auto\" is always to be had", "write one of packet, local, sockmap, copy"))
        }
    }
}

/// The path of the admin socket. Empty: none.
pub(super) fn socket(text: &str) -> Result<Option<PathBuf>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('/') || text.contains('\0') || text.ends_with('/') {
        return Err(windows_path(text).unwrap_or_else(|| {
            Fault::new(
                format!("{} is not the path of a socket", quote(text)),
                "write an absolute path such as \"/run/snisplice/admin.sock\", or \"\" for no admin socket",
            )
        }));
    }
    if text.len() > MAX_SOCKET_PATH {
        return Err(Fault::new(
            format!("the path of the socket has {} bytes", text.len()),
            format!("use a path of at most {MAX_SOCKET_PATH} bytes: the kernel takes no longer one"),
        ));
    }
    Ok(Some(PathBuf::from(text)))
}
