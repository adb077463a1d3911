//! The programs at the interfaces: by links that are pinned (tcx, Linux 6.6), or by filters of a `clsact`, which older kernels
//! have. Either way an earlier daemon's are exchanged for ours without a moment at which packets go to the stack, which would
//! reset their flows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifier, SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError};
use proxy_common::abi::packet::{EGRESS, INGRESS};
use proxy_common::packet::attach::Attach;
use proxy_common::packet::removals::Removals;

use super::hook::{BOTH, Failed, Place};
use super::kept::Pinned;
use super::{clsact, lock, no_program, pins};
use crate::kernel::Unavailable;
use crate::sys;

/// Between two tries to attach the programs to an interface that does not take them.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The loaded programs, and the interfaces that have them.
pub(super) struct Devices {
    /// Ids of the programs, as in [`BOTH`].
    pub(super) ids: [u32; 2],
    /// Locked while the kernel attaches programs, which waits for its lock of interfaces (rtnl). No connection may wait for it.
    programs: Mutex<Programs>,
    /// Locked for moments: nobody asks the kernel anything meanwhile.
    table: Mutex<Table>,
}

struct Programs {
    ebpf: Ebpf,
    how: Attach,
    /// Nothing is attached any more.
    is_over: bool,
}

/// What is known of interfaces.
#[derive(Default)]
pub(super) struct Table {
    pub(super) attached: HashMap<u32, Arc<Held>>,
    /// Interfaces that have lost the programs, and have to get them again.
    pub(super) missing: BTreeMap<u32, Missing>,
    /// How often somebody else has taken the programs away from an interface, and when that was last seen.
    pub(super) removals: HashMap<u32, (Removals, Instant)>,
    /// Interfaces to which the programs could not be attached at this time, and why.
    refused: HashMap<u32, (Instant, Unavailable)>,
    /// Programs of others that are asked before ours about what comes in.
    pub(super) before: HashMap<u32, Vec<u32>>,
    /// Interfaces where ours is to come first, since others have kept packets from it.
    pub(super) first: HashSet<u32>,
    /// When it was last put there.
    pub(super) put_first: HashMap<u32, Instant>,
    /// Interfaces that did not get the programs since they join packets.
    pub(super) joining: HashSet<u32>,
    /// Somebody else had taken an earlier daemon's programs away from an interface.
    pub(super) were_away: bool,
    /// Of all interfaces that ever had the programs, but for ports of bridges: containers have new names all the time.
    names: HashSet<String>,
}

/// The programs at one interface.
pub(super) struct Held {
    pub(super) name: String,
    is_port: bool,
    pub(super) how: Attach,
    /// What is pinned, as in [`BOTH`]: links, or programs of filters. Links live as long as somebody has them open.
    pub(super) pins: [Pinned; 2],
}

/// An interface without them.
pub(super) struct Missing {
    pub(super) name: String,
    /// For people, a whole sentence.
    pub(super) reason: String,
    /// When to try again.
    pub(super) due: Instant,
}

impl Devices {
    /// Loads the programs, and puts them in the place of those of an earlier daemon.
    pub(super) fn take_over(mut ebpf: Ebpf, own: &Path, how: Attach) -> Result<Self, Unavailable> {
        let mut ids = [0; 2];
        for ((name, _), id) in BOTH.into_iter().zip(&mut ids) {
            let refused = |error| Unavailable::explain("the kernel refuses a BPF program", &error);
            let program = program(&mut ebpf, name)?;
            program.load().map_err(refused)?;
            *id = program.info().map_err(refused)?.id();
        }
        let found =
            own.read_dir().map_err(|error| Unavailable::explain("cannot list the pinned files", &error))?;
        let devices: HashSet<u32> = found.filter_map(|entry| pins::device_of(&entry.ok()?.path())).collect();
        let programs = Mutex::new(Programs { ebpf, how, is_over: false });
        let own_devices = Self { ids, programs, table: Mutex::default() };
        for device in devices {
            let were_away = are_away(device, own);
            own_devices.table().were_away |= were_away;
            if let Err(reason) = own_devices.attach(device, own) {
                // Its interface has gone.
                tracing::debug!(device, %reason, "no program here any more");
            }
        }
        Ok(own_devices)
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// The programs at all interfaces, as they are now. For questions to the kernel, while others go on.
    pub(super) fn all_held(&self) -> Vec<(u32, Arc<Held>)> {
        self.table().attached.iter().map(|(device, held)| (*device, Arc::clone(held))).collect()
    }

    /// These interfaces have gone.
    pub(super) fn forget(&self, gone: &[u32]) {
        let mut table = self.table();
        for device in gone {
            table.forget(*device);
        }
    }

    /// Nothing is attached again from now on.
    pub(super) fn let_go(&self) {
        lock(&self.programs).is_over = true;
        *self.table() = Table::default();
    }

    /// Those of `links` that have come back.
    pub(super) fn attach_again(&self, links: &BTreeMap<String, u32>, own: &Path) {
        let back: Vec<u32> = {
            let table = self.table();
            let back = table.names.iter().filter_map(|name| links.get(name).copied());
            // Those that are missing are tried again in their own time.
            back.filter(|device| !table.attached.contains_key(device) && !table.missing.contains_key(device))
                .collect()
        };
        for device in back {
            if let Err(reason) = self.attach(device, own) {
                tracing::warn!(device, %reason, "an interface has appeared again, and the programs cannot be attached to it");
            }
        }
    }

    /// Whether an interface has the programs, if that is known without a question to the kernel.
    pub(super) fn known(&self, device: u32) -> Option<Result<(), Unavailable>> {
        let table = self.table();
        if table.attached.contains_key(&device) {
            return Some(Ok(()));
        }
        if let Some(missing) = table.missing.get(&device) {
            let remedy = "connections through it are not offloaded until then".to_owned();
            return Some(Err(Unavailable { log: None, what: missing.reason.clone(), remedy }));
        }
        let (since, refused) = table.refused.get(&device)?;
        (since.elapsed() < TRY_AGAIN).then(|| Err(refused.clone()))
    }

    /// Attaches the programs if they are not there. May wait for the kernel.
    pub(super) fn attach(&self, device: u32, own: &Path) -> Result<(), Unavailable> {
        let mut programs = lock(&self.programs);
        if self.table().attached.contains_key(&device) {
            return Ok(());
        }
        let is_to_be_first = self.table().first.contains(&device);
        let attached = self.attach_with(&mut programs, device, own, is_to_be_first);
        let mut table = self.table();
        match attached {
            Ok(held) => {
                tracing::info!(interface = %held.name, by = held.how.name(), "packet programs attached");
                if !held.is_port {
                    table.names.insert(held.name.clone());
                }
                table.missing.remove(&device);
                table.refused.remove(&device);
                table.joining.remove(&device);
                table.attached.insert(device, Arc::new(held));
                Ok(())
            }
            Err(refused) => {
                table.refused.insert(device, (Instant::now(), refused.clone()));
                Err(refused)
            }
        }
    }

    fn attach_with(
        &self,
        programs: &mut Programs,
        device: u32,
        own: &Path,
        is_to_be_first: bool,
    ) -> Result<Held, Unavailable> {
        let cannot = |error: &(dyn std::error::Error + 'static)| {
            Unavailable::explain("a BPF program cannot be attached to an interface", error)
        };
        if programs.is_over {
            return Err(cannot(&std::io::Error::other("the daemon stops")));
        }
        let found = sys::device(device).map_err(|error| cannot(&error))?;
        if !found.is_ethernet {
            return Err(Unavailable {
                log: None,
                what: format!("{} is not an Ethernet interface", found.name),
                remedy: "connections through it are not offloaded".to_owned(),
            });
        }
        let is_new = BOTH.iter().all(|(name, _)| {
            !pins::link(own, name, device).exists() && !pins::filter(own, name, device).exists()
        });
        // What has connections already goes on.
        if is_new && let Some(joining) = joins_packets(&found) {
            self.table().joining.insert(device);
            return Err(Unavailable {
                log: None,
                what: format!(
                    "{joining} joins packets in hardware (large receive offload), which cannot be divided again"
                ),
                remedy: format!("run `ethtool -K {joining} lro off`"),
            });
        }
        for (name, kind) in BOTH {
            let program = program(&mut programs.ebpf, name)?;
            let is_to_be_first = is_to_be_first && name == INGRESS;
            let place = Place { interface: &found.name, kind, own, name, device, is_to_be_first };
            programs.how = attach(program, &place, programs.how).map_err(|error| cannot(&error))?;
        }
        let held = hold(device, found, programs.how, own).map_err(|error| cannot(&error))?;
        self.confirm(device, &held)?;
        Ok(held)
    }
}

impl Table {
    /// Whether this is what is known of an interface.
    pub(super) fn has(&self, device: u32, held: &Arc<Held>) -> bool {
        self.attached.get(&device).is_some_and(|found| Arc::ptr_eq(found, held))
    }

    pub(super) fn forget(&mut self, device: u32) {
        self.attached.remove(&device);
        self.missing.remove(&device);
        self.removals.remove(&device);
        self.refused.remove(&device);
        self.before.remove(&device);
        self.first.remove(&device);
        self.joining.remove(&device);
        self.put_first.remove(&device);
    }
}

/// The interface that does, which may be one below.
pub(crate) fn joins_packets(device: &sys::Device) -> Option<String> {
    let joins = |device: &sys::Device| sys::joins_packets(&device.name).is_ok_and(|joins| joins);
    if joins(device) {
        return Some(device.name.clone());
    }
    let below = device.below.and_then(|below| sys::device(below).ok());
    below.filter(joins).map(|below| below.name)
}

/// Opens what was just pinned.
fn hold(device: u32, found: sys::Device, how: Attach, own: &Path) -> std::io::Result<Held> {
    let path = if how == Attach::Tcx { pins::link } else { pins::filter };
    let [ingress, egress] = BOTH.map(|(name, _)| Pinned::open(path(own, name, device)));
    Ok(Held { is_port: found.bridge.is_some(), name: found.name, how, pins: [ingress?, egress?] })
}

/// Whether an earlier daemon's programs are not at an interface at which they were.
fn are_away(device: u32, own: &Path) -> bool {
    if sys::device(device).is_err() {
        // They went with it.
        return false;
    }
    BOTH.into_iter().any(|(name, kind)| {
        let link = sys::pinned(&pins::link(own, name, device)).and_then(|link| sys::link_at(&link));
        let is_linked = link.is_ok_and(|(at, _)| at == Some(device));
        !is_linked && !clsact::program_at(device, kind).is_ok_and(|found| found.is_some())
    })
}

pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Unavailable> {
    let program = ebpf.program_mut(name).ok_or_else(|| no_program(name))?;
    program.try_into().map_err(|error| Unavailable::explain("the BPF program has another type", &error))
}

/// Says how it was done. What was there in the other way goes afterwards: a packet that both see was translated and sent on by
/// the first, or is left alone by both.
fn attach(program: &mut SchedClassifier, place: &Place<'_>, how: Attach) -> Result<Attach, Failed> {
    if how != Attach::Clsact {
        match attach_link(program, place) {
            Ok(()) => {
                clsact::remove(place)?;
                return Ok(Attach::Tcx);
            }
            Err(error) if how == Attach::Tcx || !is_unknown(&error) => return Err(error),
            Err(error) => tracing::debug!(%error, "this kernel has no tcx links"),
        }
    }
    clsact::attach(program, place)?;
    match std::fs::remove_file(pins::link(place.own, place.name, place.device)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(Attach::Clsact),
    }
}

/// What a kernel answers that does not know this kind of link: before 6.6, or built without it.
fn is_unknown(error: &Failed) -> bool {
    let Failed::Program(ProgramError::SyscallError(error)) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn attach_link(program: &mut SchedClassifier, place: &Place<'_>) -> Result<(), Failed> {
    let pin = pins::link(place.own, place.name, place.device);
    if !place.is_to_be_first && pin.exists() && replace(program, &pin).is_ok() {
        return Ok(());
    }
    // A link whose interface has gone, perhaps with an index that another one has now; or one that is to be in another place, and may be
    // open elsewhere.
    if place.is_to_be_first
        && let Ok(link) = sys::pinned(&pin)
    {
        sys::detach_link(&link)?;
    }
    let _ = std::fs::remove_file(&pin);
    // What goes out it keeps from nobody, and no other program is to keep that from it.
    let is_first = place.is_to_be_first || place.name == EGRESS;
    let order = if is_first { LinkOrder::first() } else { LinkOrder::last() };
    let order = TcAttachOptions::TcxOrder(order);
    let id = program.attach_with_options(place.interface, place.kind, order)?;
    drop(FdLink::try_from(program.take_link(id)?)?.pin(&pin)?);
    Ok(())
}

/// At once, so that no packet goes by in between.
fn replace(program: &mut SchedClassifier, pin: &Path) -> Result<(), Failed> {
    let link: FdLink = PinnedLink::from_pin(pin)?.into();
    let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
    drop(program.take_link(id)?);
    Ok(())
}
