//! What all loaded BPF objects share: finding maps, programs and offsets, and errors of maps.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{Map, MapError};
use aya::programs::ProgramError;
use proxy_common::btf::field_offset;

use super::Unavailable;
use super::failure::os_error;

/// Values for constants of programs: offsets of fields, as the kernel describes its own structures.
pub(super) fn offsets<'a>(
    fields: impl Iterator<Item = &'a (&'static str, &'static str, &'static str)>,
) -> Result<Vec<(&'static str, u32)>, Unavailable> {
    const SOURCE: &str = "/sys/kernel/btf/vmlinux";
    let btf = std::fs::read(SOURCE)
        .map_err(|error| Unavailable::explain(&format!("cannot read {SOURCE}"), &error))?;
    let offset = |&(constant, structure, field): &(&'static str, &'static str, &'static str)| {
        let offset = field_offset(&btf, structure, field).ok_or_else(|| Unavailable {
            log: None,
            what: format!("{SOURCE} does not say where {structure}.{field} is"),
            remedy: "use a kernel with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
        })?;
        Ok((constant, offset))
    };
    fields.map(offset).collect()
}

/// A map of the object.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, Unavailable> {
    let map = ebpf.take_map(name).ok_or_else(|| missing(name))?;
    map.try_into().map_err(|error| Unavailable::explain("a BPF map has another type", &error))
}

pub(super) fn missing(name: &str) -> Unavailable {
    Unavailable {
        log: None,
        what: format!("the BPF object has no {name}"),
        remedy: "build again with `cargo xtask build`".to_owned(),
    }
}

/// A program of the object.
pub(super) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T, Unavailable>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|error| Unavailable::explain("the BPF program has another type", &error))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn refused(error: ProgramError) -> Unavailable {
    Unavailable::explain("the kernel refuses a BPF program", &error)
}

/// The answer of the kernel, if there is one.
pub(super) fn into_io(error: MapError) -> io::Error {
    match os_error(&error).and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error),
    }
}

/// A panic while the lock was held cannot have left a map half changed: each change is one system call.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
