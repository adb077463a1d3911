//! Attachments that somebody else takes away: found by asking the kernel, and attached again.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proxy_common::packet::attach::Attach;

use super::attach::{BOTH, Devices, Held, Missing};
use super::{Packet, clsact, lock};
use crate::kernel::Unavailable;
use crate::sys;

/// Between two tries to attach the programs to an interface that does not take them.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Packets of flows without sockets are not translated at some interface, and go to the stack, which answers them with resets.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) since: Instant,
    /// For people.
    pub(crate) reason: String,
}

/// Somebody else has taken a program away from an interface, or put another one into its place.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) interface: String,
    pub(crate) what: &'static str,
    /// Err: it cannot be attached again.
    pub(crate) again: Result<(), String>,
}

/// How it stands with the programs of an interface.
enum Standing {
    Whole,
    /// The interface has gone, which others look after.
    Gone,
    Taken(&'static str),
}

impl Packet {
    /// Looks whether the programs are where they were attached, and attaches them again where they are not. What could not be done
    /// before is told only if the reason is another one now. `before`: what is to be done once it is seen that they are not there.
    pub(crate) fn look_at_attachments(&self, before: impl Fn()) -> Vec<Taken> {
        let mut devices = lock(&self.devices);
        let taken = devices.look(&self.pins, before);
        let reason = devices.reason();
        drop(devices);
        let again = taken.iter().filter(|taken| taken.again.is_ok()).count();
        self.reattached.fetch_add(u64::try_from(again).unwrap_or(0), Ordering::Relaxed);
        let mut lost = lock(&self.lost);
        let since = lost.as_ref().map_or_else(Instant::now, |lost| lost.since);
        *lost = reason.map(|reason| Lost { since, reason });
        taken
    }

    /// Whether programs of an earlier daemon were away when this one began: the kernel may have reset its flows.
    pub(crate) fn were_away(&self) -> bool {
        lock(&self.devices).were_away
    }

    /// Some: no flow can leave its sockets, and those that have are cut off.
    pub(crate) fn lost(&self) -> Option<Lost> {
        lock(&self.lost).clone()
    }
}

impl Devices {
    fn look(&mut self, own: &Path, before: impl Fn()) -> Vec<Taken> {
        let mut taken = Vec::new();
        let devices: Vec<u32> = self.attached.keys().chain(self.missing.keys()).copied().collect();
        for device in devices {
            let (interface, what) = match self.attached.get(&device) {
                None => match self.missing.get(&device) {
                    Some(missing) if missing.tried.elapsed() >= TRY_AGAIN => {
                        (missing.name.clone(), "detached")
                    }
                    _ => continue,
                },
                Some(held) => match self.standing(device, held) {
                    Standing::Whole => continue,
                    Standing::Gone => {
                        self.attached.remove(&device);
                        continue;
                    }
                    Standing::Taken(what) => {
                        before();
                        (held.name.clone(), what)
                    }
                },
            };
            self.attached.remove(&device);
            let again = self.attach(device, own).map_err(|reason| reason.to_string());
            if let Err(reason) = &again {
                if is_gone(device, &interface) {
                    self.missing.remove(&device);
                    continue;
                }
                let missing =
                    Missing { name: interface.clone(), reason: reason.clone(), tried: Instant::now() };
                let before = self.missing.insert(device, missing);
                if before.is_some_and(|before| before.reason == *reason) {
                    continue;
                }
            }
            taken.push(Taken { interface, what, again });
        }
        taken
    }

    /// Whether what was just attached is there: with another queueing discipline in the place of `clsact` one filter takes the place of
    /// the other.
    pub(super) fn confirm(&self, device: u32, held: &Held) -> Result<(), Unavailable> {
        match self.standing(device, held) {
            Standing::Taken(_) => Err(Unavailable {
                what: format!("the BPF programs are not there after they were attached to {}", held.name),
                remedy: format!("see what `tc qdisc show dev {}` has in the place of clsact", held.name),
            }),
            Standing::Whole | Standing::Gone => Ok(()),
        }
    }

    fn standing(&self, device: u32, held: &Held) -> Standing {
        for (((_, kind), id), pinned) in BOTH.into_iter().zip(self.ids).zip(&held.pins) {
            let found = if held.how == Attach::Tcx {
                link_at(&pinned.fd, device)
            } else {
                clsact::program_at(device, kind)
            };
            match found {
                Ok(Some(found)) if found == id => {}
                // What the kernel does not tell is not taken for a loss.
                Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                    tracing::debug!(%error, interface = held.name, "the kernel does not tell what is attached");
                }
                _ if is_gone(device, &held.name) => return Standing::Gone,
                Ok(Some(_)) => return Standing::Taken("replaced"),
                _ => return Standing::Taken("detached"),
            }
        }
        Standing::Whole
    }

    fn reason(&self) -> Option<String> {
        let missing = self.missing.values().next()?;
        Some(format!(
            "somebody else has detached the BPF program from {}, and it cannot be attached again: {}; packets of offloaded connections \
             are not forwarded; it is tried again",
            missing.name, missing.reason
        ))
    }
}

/// The program of a link, if that is still attached to this interface.
fn link_at(link: &OwnedFd, device: u32) -> io::Result<Option<u32>> {
    let at = sys::link_interface(link)?;
    Ok(if at == Some(device) { Some(sys::link_program(link)?) } else { None })
}

/// Whether there is no such interface any more.
fn is_gone(device: u32, name: &str) -> bool {
    match sys::device(device) {
        Ok(found) => found.name != name,
        Err(error) => error.raw_os_error() == Some(libc::ENODEV),
    }
}
