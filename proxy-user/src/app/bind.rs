//! The listening sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::control::{Exit, Failure, doctor};
use crate::front::Bound;
use crate::hub::snapshot::Snapshot;
use crate::sys;

/// Every address once for each worker, so that the kernel spreads connections over them.
pub(super) fn bind(snapshot: &Snapshot) -> Result<Vec<Vec<Bound>>, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut workers: Vec<Vec<Bound>> = (0..cores).map(|_| Vec::new()).collect();
    let all =
        || snapshot.listeners.iter().flat_map(|one| one.addresses.iter().map(move |address| (one, *address)));
    for (listener, address) in all() {
        // Sockets that share a port let a second daemon share it too: find out before.
        sys::check_free(address).map_err(|error| bind_failure(&listener.name, address, &error))?;
    }
    for (listener, address) in all() {
        for worker in &mut workers {
            let socket = sys::bind(address, true, Some(snapshot.timeouts.keepalive))
                .map_err(|error| bind_failure(&listener.name, address, &error))?;
            worker.push(Bound { listener: Arc::clone(listener), socket });
        }
    }
    Ok(workers)
}

fn bind_failure(listener: &str, address: SocketAddr, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => match doctor::listener(address) {
            Some(owner) => format!("{owner} listens there; stop it, or change address in [[listen]]"),
            None => {
                format!("something else listens there; find it with `ss -ltnp sport = :{}`", address.port())
            }
        },
        io::ErrorKind::PermissionDenied => format!("run as root, or {}", doctor::BIND),
        io::ErrorKind::AddrNotAvailable => "no interface of this host has that address".to_owned(),
        _ if address.is_ipv6() => "if IPv6 is off on this host, listen on 0.0.0.0 instead".to_owned(),
        _ => "check the address".to_owned(),
    };
    let message = format!("cannot listen on {address} (listener \"{listener}\"): {error}; {remedy}");
    Failure::new(bind_exit(Some(error.kind())), message)
}

pub(super) fn bind_exit(kind: Option<io::ErrorKind>) -> Exit {
    match kind {
        Some(io::ErrorKind::PermissionDenied) => Exit::Permission,
        _ => Exit::Unavailable,
    }
}
