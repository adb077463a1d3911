//! Filters of a `clsact`, for kernels without tcx links (before Linux 6.6). They outlive whoever made them, with nothing pinned;
//! what is pinned beside them are the programs, which says where there are filters.
//!
//! A filter of the same priority and handle takes the place of an older one by one write to a list that packets walk under
//! RCU (`cls_bpf_change` in `net/sched/cls_bpf.c`): each packet meets one of the two.

use std::io;
use std::mem::ManuallyDrop;
use std::path::Path;

use aya::programs::tc::{
    NlOptions, SchedClassifier, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle,
    qdisc_add_clsact,
};
use aya::programs::{ProgramError, ProgramInfo, loaded_programs};
use proxy_common::abi::packet::FLOWS;

use super::hook::{BOTH, Failed, Place};
use super::pins;
use crate::sys;

/// A place in the order of filters. The numbers are ours for ever: a later version has to find them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Spot {
    priority: u16,
    handle: u16,
}

/// Filters of others may come before ours and behind.
const USUAL: Spot = Spot { priority: 0x5b11, handle: 1 };
/// Before all others, where one of them has kept packets of ours. Of filters of one priority the youngest comes first.
const FRONT: Spot = Spot { priority: 1, handle: 0x5b11 };

impl Spot {
    /// The id of the program of our filter here. None: there is no such filter.
    fn program(self, device: u32, kind: TcAttachType) -> io::Result<Option<u32>> {
        let is_ingress = matches!(kind, TcAttachType::Ingress);
        sys::filter_program(device, is_ingress, self.priority, self.handle.into())
    }

    fn filter(self, interface: &str, kind: TcAttachType) -> io::Result<SchedClassifierLink> {
        SchedClassifierLink::attached(interface, kind, self.priority, TcHandle::new(0, self.handle), None)
    }

    fn options(self) -> TcAttachOptions {
        let handle = TcHandle::new(0, self.handle);
        TcAttachOptions::Netlink(NlOptions { priority: self.priority, handle, classid: None })
    }

    fn detach(self, interface: &str, kind: TcAttachType) -> Result<(), Failed> {
        match aya::programs::links::Link::detach(self.filter(interface, kind)?) {
            // The interface has another index's name now, or somebody has removed it.
            Err(ProgramError::NetlinkError(error))
                if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) =>
            {
                Ok(())
            }
            result => Ok(result?),
        }
    }
}

/// Where our filter is, or would be.
fn spot(device: u32, kind: TcAttachType) -> io::Result<Spot> {
    Ok(if FRONT.program(device, kind)?.is_some() { FRONT } else { USUAL })
}

/// Puts the program in the place of an earlier one, or where there is none.
pub(super) fn attach(program: &mut SchedClassifier, place: &Place<'_>) -> Result<(), Failed> {
    match qdisc_add_clsact(place.interface) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Before there is a filter: whoever cleans up after a crash has to know of it.
    let pin = pins::filter(place.own, place.name, place.device);
    match std::fs::remove_file(&pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => program.pin(&pin)?,
    }
    let id = if place.is_to_be_first {
        // One that is there stays in its place.
        FRONT.detach(place.interface, place.kind)?;
        let id = program.attach_with_options(place.interface, place.kind, FRONT.options())?;
        USUAL.detach(place.interface, place.kind)?;
        id
    } else {
        let spot = spot(place.device, place.kind)?;
        match program.attach_to_link(spot.filter(place.interface, place.kind)?) {
            Err(ProgramError::TcError(TcError::NetlinkError(error)))
                if error.raw_os_error() == Some(libc::ENOENT) =>
            {
                program.attach_with_options(place.interface, place.kind, spot.options())
            }
            replaced => replaced,
        }?
    };
    // Dropping it would take the filter away.
    let _stays = ManuallyDrop::new(program.take_link(id)?);
    Ok(())
}

/// Takes the filter away, if there is one of ours.
pub(super) fn remove(place: &Place<'_>) -> Result<(), Failed> {
    let pin = pins::filter(place.own, place.name, place.device);
    if pin.exists() {
        remove_pinned(&pin)?;
        std::fs::remove_file(&pin)?;
    }
    Ok(())
}

/// The direction of the filter of which `pin` tells.
pub(super) fn kind_of(pin: &Path) -> Option<TcAttachType> {
    BOTH.into_iter().find(|(name, _)| pins::is_filter_of(pin, name)).map(|(_, kind)| kind)
}

/// The id of the program of our filter at an interface of this network namespace. None: there is no such filter.
pub(super) fn program_at(device: u32, kind: TcAttachType) -> io::Result<Option<u32>> {
    spot(device, kind)?.program(device, kind)
}

/// The ids of programs of filters that packets which come in meet before ours, which has this program.
pub(super) fn before_ours(device: u32, own: u32) -> io::Result<Vec<u32>> {
    sys::filters_before(device, own)
}

/// Takes away the filter that `pin` stands for. The interface may have the filter of somebody else in its place by now, or be another
/// interface with the same number: that is left alone.
pub(super) fn remove_pinned(pin: &Path) -> io::Result<()> {
    let (Some(kind), Some(device)) = (kind_of(pin), pins::device_of(pin)) else { return Ok(()) };
    let Some(found) = program_at(device, kind)? else { return Ok(()) };
    if !is_of(found, pin) {
        return Ok(());
    }
    match sys::device(device) {
        Ok(found) => spot(device, kind)?.detach(&found.name, kind).map_err(io::Error::other),
        // It went with its interface.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a program is the one that is pinned, or an earlier one of the same folder: a daemon that dies while it takes another one's
/// place has pinned its program, and the filter has the other one still. Both use the map of connections of that folder.
fn is_of(program: u32, pin: &Path) -> bool {
    if ProgramInfo::from_pin(pin).is_ok_and(|pinned| pinned.id() == program) {
        return true;
    }
    let flows = sys::pinned(&pin.with_file_name(FLOWS)).and_then(|map| sys::object_id(&map));
    let mut programs = loaded_programs().filter_map(Result::ok);
    let maps = programs.find(|found| found.id() == program).and_then(|found| found.map_ids().ok().flatten());
    flows.is_ok_and(|flows| maps.is_some_and(|maps| maps.contains(&flows)))
}
