//! What to do about an address that cannot be bound.

use std::io;

use crate::control::{Exit, Failure, doctor};
use crate::front::BindError;

pub(super) fn failure(bind: &BindError) -> Failure {
    let BindError { address, error, .. } = bind;
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => match doctor::listener(*address) {
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
    Failure::new(exit(error.kind()), format_args!("{bind}; {remedy}"))
}

pub(super) const fn exit(kind: io::ErrorKind) -> Exit {
    match kind {
        io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Unavailable,
    }
}
