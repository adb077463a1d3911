//! The programs at the interfaces, by links that are pinned (tcx, Linux 6.6): filters of a `clsact`, which older kernels
//! have, cannot be exchanged without a moment at which packets go to the stack, which resets their flows.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifier, SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, ProgramError};
use proxy_common::abi::packet::{EGRESS, INGRESS};

use super::{no_program, pins};
use crate::kernel::Unavailable;
use crate::sys;

const BOTH: [(&str, TcAttachType); 2] = [(INGRESS, TcAttachType::Ingress), (EGRESS, TcAttachType::Egress)];

/// The loaded programs, and where they are.
pub(super) struct Devices {
    ebpf: Ebpf,
    attached: HashSet<u32>,
    /// Of all that ever were.
    names: HashSet<String>,
}

impl Devices {
    /// Loads the programs, and puts them in the place of those of an earlier daemon.
    pub(super) fn take_over(mut ebpf: Ebpf, own: &Path) -> Result<Self, Unavailable> {
        for (name, _) in BOTH {
            let program = program(&mut ebpf, name)?;
            program
                .load()
                .map_err(|error| Unavailable::explain("the kernel refuses a BPF program", &error))?;
        }
        let found =
            own.read_dir().map_err(|error| Unavailable::explain("cannot list what is pinned", &error))?;
        let devices: HashSet<u32> = found.filter_map(|entry| pins::device_of(&entry.ok()?.path())).collect();
        let mut own_devices = Self { ebpf, attached: HashSet::new(), names: HashSet::new() };
        for device in devices {
            if let Err(reason) = own_devices.attach(device, own) {
                // Its interface has gone.
                tracing::debug!(device, %reason, "no program here any more");
            }
        }
        Ok(own_devices)
    }

    /// These interfaces, or all, may have lost the programs.
    pub(super) fn doubt(&mut self, gone: Option<&[u32]>) {
        match gone {
            Some(gone) => self.attached.retain(|device| !gone.contains(device)),
            None => self.attached.clear(),
        }
    }

    /// Those of `links` that have come back.
    pub(super) fn attach_again(&mut self, links: &BTreeMap<String, u32>, own: &Path) {
        let back = self.names.iter().filter_map(|name| links.get(name).copied());
        let back: Vec<u32> = back.filter(|device| !self.attached.contains(device)).collect();
        for device in back {
            if let Err(reason) = self.attach(device, own) {
                tracing::warn!(device, %reason, "an interface has come back, and does not take the programs");
            }
        }
    }

    pub(super) fn attach(&mut self, device: u32, own: &Path) -> Result<(), Unavailable> {
        if self.attached.contains(&device) {
            return Ok(());
        }
        let cannot = |error: &(dyn std::error::Error + 'static)| {
            Unavailable::explain("a BPF program cannot be attached to an interface", error)
        };
        let found = sys::device(device).map_err(|error| cannot(&error))?;
        if !found.is_ethernet {
            return Err(Unavailable {
                what: format!("{} is no Ethernet", found.name),
                remedy: "such flows are copied".to_owned(),
            });
        }
        for (name, kind) in BOTH {
            let program = program(&mut self.ebpf, name)?;
            attach(program, &found.name, kind, &pins::link(own, name, device))
                .map_err(|error| cannot(&error))?;
        }
        tracing::info!(interface = %found.name, "packets are looked at");
        self.attached.insert(device);
        self.names.insert(found.name);
        Ok(())
    }
}

pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Unavailable> {
    let program = ebpf.program_mut(name).ok_or_else(|| no_program(name))?;
    program.try_into().map_err(|error| Unavailable::explain("the BPF program has another type", &error))
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] aya::programs::links::LinkError),
    #[error(transparent)]
    Pin(#[from] aya::pin::PinError),
}

fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    kind: TcAttachType,
    pin: &Path,
) -> Result<(), Failed> {
    if pin.exists() && replace(program, pin).is_ok() {
        return Ok(());
    }
    // A link whose interface has gone, perhaps with an index that another one has now.
    let _ = std::fs::remove_file(pin);
    let last = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, kind, last)?;
    drop(FdLink::try_from(program.take_link(id)?)?.pin(pin)?);
    Ok(())
}

/// At once, so that no packet goes by in between.
fn replace(program: &mut SchedClassifier, pin: &Path) -> Result<(), Failed> {
    let link: FdLink = PinnedLink::from_pin(pin)?.into();
    let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
    drop(program.take_link(id)?);
    Ok(())
}
