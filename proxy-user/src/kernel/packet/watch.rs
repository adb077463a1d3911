//! Attachments that somebody else takes away: found by asking the kernel, and attached again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proxy_common::abi::packet::Counter;
use proxy_common::packet::attach::Attach;
use proxy_common::packet::removals::Removals;

use super::attach::{Devices, Held, Missing, TRY_AGAIN, Table};
use super::hook::BOTH;
use super::{Packet, clsact, lock, sum};
use crate::kernel::Unavailable;
use crate::sys;

/// Time between two moves of the program to the first place at an interface. Another daemon that moves its own program does not keep us busy.
const AGAIN_IN_FRONT: Duration = Duration::from_secs(2);

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
    pub(crate) again: Again,
}

/// What has become of it.
#[derive(Debug)]
pub(crate) enum Again {
    /// It is attached again.
    Done,
    /// It was taken away again and again: it is attached after this time.
    Later(Duration),
    /// It cannot be attached again.
    Failed(String),
    /// It is there, and the program with this id is asked before it from now on (0: a filter without a program).
    Behind(u32),
    /// That one has kept packets of offloaded connections from it, and it has been put before it.
    InFront(u32),
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
        let has_missed = self.has_missed();
        let taken = self.devices.look(&self.pins, has_missed, before);
        let reason = self.devices.table().reason();
        let again = taken.iter().filter(|taken| matches!(taken.again, Again::Done)).count();
        self.reattached.fetch_add(u64::try_from(again).unwrap_or(0), Ordering::Relaxed);
        let mut lost = lock(&self.lost);
        let since = lost.as_ref().map_or_else(Instant::now, |lost| lost.since);
        *lost = reason.map(|reason| Lost { since, reason });
        taken
    }

    /// Whether packets have come past the programs since this was last asked.
    fn has_missed(&self) -> bool {
        let missed = self.missed();
        self.missed.swap(missed, Ordering::Relaxed) != missed
    }

    /// Packets that have come past the programs.
    pub(crate) fn missed(&self) -> u64 {
        sum(&self.counters, Counter::Missed)
    }

    /// Whether programs of an earlier daemon were away when this one began: the kernel may have reset its flows.
    pub(crate) fn were_away(&self) -> bool {
        self.devices.table().were_away
    }

    /// Why no connection is to be offloaded now. None: any may be.
    pub(crate) fn hindrance(&self) -> Option<String> {
        if let Some(lost) = self.lost() {
            return Some(lost.reason);
        }
        self.devices.table().contested()
    }

    /// Some: no flow can leave its sockets, and those that have are cut off.
    pub(crate) fn lost(&self) -> Option<Lost> {
        lock(&self.lost).clone()
    }
}

impl Devices {
    /// Asks the kernel about a copy of what is known: meanwhile nobody waits for an answer.
    fn look(&self, own: &Path, has_missed: bool, before: impl Fn()) -> Vec<Taken> {
        let mut taken = Vec::new();
        for (device, held) in self.all_held() {
            let what = match self.standing(device, &held) {
                Standing::Whole => {
                    let found = self.overtaken(device, &held, has_missed, &before);
                    taken.extend(found.map(|again| match again {
                        Again::InFront(other) => self.put_in_front(device, &held.name, other, own),
                        _ => Taken { interface: held.name.clone(), what: "overtaken", again },
                    }));
                    continue;
                }
                Standing::Gone => {
                    self.table().drop_if_same(device, &held);
                    continue;
                }
                Standing::Taken(what) => what,
            };
            let Some(wait) = self.table().note_removal(device, &held, &before) else { continue };
            if wait.is_zero() {
                taken.extend(self.put_back(device, &held.name, what, own));
            } else {
                let again = Again::Later(wait);
                taken.push(Taken { interface: held.name.clone(), what, again });
            }
        }
        let due = self.table().due();
        for (device, name) in due {
            taken.extend(self.put_back(device, &name, "detached", own));
        }
        taken
    }

    /// Somebody else has put a program before ours. It may keep packets from it; if packets were missed ours is to be put before it.
    fn overtaken(&self, device: u32, held: &Arc<Held>, has_missed: bool, before: impl Fn()) -> Option<Again> {
        let now = self.before_ours(device, held)?;
        let mut table = self.table();
        if !table.has(device, held) {
            return None;
        }
        let newcomer = |known: Vec<u32>| now.iter().find(|id| !known.contains(id)).copied();
        let newcomer = table.before.insert(device, now.clone()).and_then(newcomer);
        let is_recent = table.put_first.get(&device).is_some_and(|since| since.elapsed() < AGAIN_IN_FRONT);
        let again = match now.first() {
            Some(first) if has_missed && !is_recent => {
                table.first.insert(device);
                table.put_first.insert(device, Instant::now());
                table.attached.remove(&device);
                Again::InFront(*first)
            }
            _ => Again::Behind(newcomer?),
        };
        drop(table);
        before();
        Some(again)
    }

    fn put_in_front(&self, device: u32, name: &str, other: u32, own: &Path) -> Taken {
        let in_front = self.attach(device, own).map(|()| Again::InFront(other));
        let again = match in_front.or_else(|_| {
            // Somebody has the first place whom nobody can go before: the old one is better than none.
            self.table().first.remove(&device);
            self.attach(device, own).map(|()| Again::Behind(other))
        }) {
            Ok(again) => again,
            Err(reason) => {
                self.table().note_failure(device, name, &reason.to_string());
                Again::Failed(reason.to_string())
            }
        };
        Taken { interface: name.to_owned(), what: "overtaken", again }
    }

    /// None: the kernel does not tell.
    fn before_ours(&self, device: u32, held: &Held) -> Option<Vec<u32>> {
        let [own, _] = self.ids;
        let mut found = match sys::programs_at(device) {
            Ok(found) => found,
            // A kernel without links.
            Err(_) if held.how == Attach::Clsact => Vec::new(),
            Err(_) => return None,
        };
        if held.how == Attach::Clsact {
            found.extend(clsact::before_ours(device, own).ok()?);
        } else {
            found.truncate(found.iter().position(|id| *id == own)?);
        }
        Some(found)
    }

    /// None: there is nothing to say of it.
    fn put_back(&self, device: u32, name: &str, what: &'static str, own: &Path) -> Option<Taken> {
        let again = match self.attach(device, own) {
            Ok(()) => Again::Done,
            Err(_) if is_gone(device, name) => {
                self.table().forget(device);
                return None;
            }
            Err(reason) => {
                let reason = reason.to_string();
                if !self.table().note_failure(device, name, &reason) {
                    return None;
                }
                Again::Failed(reason)
            }
        };
        Some(Taken { interface: name.to_owned(), what, again })
    }

    /// Any interface may have gone. What is still there is kept: it is looked at as ever.
    pub(super) fn forget_gone(&self) {
        for (device, held) in self.all_held() {
            if matches!(self.standing(device, &held), Standing::Gone) {
                self.table().drop_if_same(device, &held);
            }
        }
    }

    /// Whether what was just attached is there: with another queueing discipline in the place of `clsact` one filter takes the place of
    /// the other.
    pub(super) fn confirm(&self, device: u32, held: &Held) -> Result<(), Unavailable> {
        match self.standing(device, held) {
            Standing::Taken(_) => Err(Unavailable {
                log: None,
                what: format!("the BPF programs are missing after they were attached to {}", held.name),
                remedy: format!("see what `tc qdisc show dev {}` has in the place of clsact", held.name),
            }),
            Standing::Whole | Standing::Gone => Ok(()),
        }
    }

    fn standing(&self, device: u32, held: &Held) -> Standing {
        for (((_, kind), id), pinned) in BOTH.into_iter().zip(self.ids).zip(&held.pins) {
            let found = if held.how == Attach::Tcx {
                sys::link_at(&pinned.fd).map(|(at, program)| (at == Some(device)).then_some(program))
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
}

impl Table {
    fn drop_if_same(&mut self, device: u32, held: &Arc<Held>) {
        if self.has(device, held) {
            self.attached.remove(&device);
        }
    }

    /// The programs are not there any more. Says how long to wait before they are attached again; None: that is known, or the interface
    /// has gone. `before`: what is to be done before they are.
    fn note_removal(&mut self, device: u32, held: &Arc<Held>, before: impl Fn()) -> Option<Duration> {
        if !self.has(device, held) {
            return None;
        }
        before();
        self.attached.remove(&device);
        let now = Instant::now();
        let (removals, last) = self.removals.entry(device).or_insert((Removals::default(), now));
        let wait = removals.note(now.duration_since(*last));
        *last = now;
        let reason = format!(
            "another program removes the BPF programs from {} again and again: no packets of offloaded connections are forwarded there \
             until they are attached again, in some seconds",
            held.name
        );
        let missing = Missing { name: held.name.clone(), reason, due: now + wait };
        self.missing.insert(device, missing);
        Some(wait)
    }

    /// The programs cannot be attached. Says whether that is news.
    fn note_failure(&mut self, device: u32, name: &str, reason: &str) -> bool {
        let reason = format!(
            "another program has detached the BPF program from {name}, and it cannot be attached again: {reason}; packets of offloaded \
             connections are not forwarded; it is tried again every second"
        );
        let missing =
            Missing { name: name.to_owned(), reason: reason.clone(), due: Instant::now() + TRY_AGAIN };
        let before = self.missing.insert(device, missing);
        before.is_none_or(|before| before.reason != reason)
    }

    /// Interfaces that are to get the programs now.
    fn due(&self) -> Vec<(u32, String)> {
        let now = Instant::now();
        let due = self.missing.iter().filter(|(_, missing)| missing.due <= now);
        due.map(|(device, missing)| (*device, missing.name.clone())).collect()
    }

    /// Some: somebody else removes the programs as soon as they are attached.
    fn contested(&self) -> Option<String> {
        let mut removals = self.removals.iter();
        let (device, _) = removals.find(|(_, (removals, last))| removals.go_on(last.elapsed()))?;
        let name = self.attached.get(device).map_or("an interface", |held| &held.name);
        Some(format!(
            "another program removes the BPF programs from {name} again and again: no connection is offloaded until that has stopped \
             for a minute; find what removes them and stop it"
        ))
    }

    fn reason(&self) -> Option<String> {
        Some(self.missing.values().next()?.reason.clone())
    }
}

/// Whether there is no such interface any more.
fn is_gone(device: u32, name: &str) -> bool {
    match sys::device(device) {
        Ok(found) => found.name != name,
        Err(error) => error.raw_os_error() == Some(libc::ENODEV),
    }
}
