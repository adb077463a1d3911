//! The folder where maps and links are pinned.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData};
use proxy_common::abi::packet::{ENTRY_WORDS, FLOWS, KEY_WORDS, LAYOUT, STATE, STATE_LAYOUT};
use rustix::fs::{FlockOperation, flock, statfs};

use super::clsact;
use crate::kernel::Unavailable;

/// `BPF_FS_MAGIC` (`include/uapi/linux/magic.h`).
const BPF_FS: u64 = 0xcafe_4a11;

/// What the names of programs of filters begin with.
const FILTER: &str = "filter_";

/// Makes the folder of this network namespace below `pins`, and locks it.
pub(super) fn claim(pins: &Path) -> Result<(PathBuf, File), Unavailable> {
    let own =
        own_folder(pins).map_err(|error| Unavailable::explain("cannot tell network namespaces", &error))?;
    let cannot = |error: io::Error| Unavailable {
        what: format!("cannot pin to {}: {error}", pins.display()),
        remedy: "mount -t bpf bpf /sys/fs/bpf, or name another BPF file system with pins in [packet]"
            .to_owned(),
    };
    let is_bpf = |path: &Path| statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(BPF_FS));
    if !pins.ancestors().any(is_bpf) {
        return Err(cannot(io::Error::other("it is in no BPF file system")));
    }
    fs::create_dir_all(&own).map_err(cannot)?;
    let folder = File::open(&own).map_err(cannot)?;
    flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(|error| Unavailable {
        what: format!("another snisplice uses {}: {error}", own.display()),
        remedy: "name another folder with pins in [packet]".to_owned(),
    })?;
    Ok((own, folder))
}

/// Devices, addresses and ports are those of one network namespace.
fn own_folder(pins: &Path) -> io::Result<PathBuf> {
    let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
    Ok(pins.join(namespace.to_string()))
}

/// Removes what a version with other maps has left: its flows cannot be understood, and end with resets.
pub(super) fn drop_other_layouts(own: &Path) -> Result<(), Unavailable> {
    let path = own.join(STATE);
    if !path.exists() {
        return Ok(());
    }
    let layout = MapData::from_pin(&path)
        .and_then(|data| Array::<_, u32>::try_from(Map::Array(data)))
        .and_then(|state| state.get(&STATE_LAYOUT, 0));
    if layout.is_ok_and(|layout| layout == LAYOUT) {
        return Ok(());
    }
    tracing::warn!("the packet flows of a version with another layout of maps are ended");
    remove_all(own).map_err(|error| Unavailable::explain("cannot remove what is pinned", &error))
}

/// See [`super::clean`].
pub(super) fn clean(pins: &Path) -> io::Result<Option<usize>> {
    let own = own_folder(pins)?;
    if !own.exists() {
        return Ok(None);
    }
    let folder = File::open(&own)?;
    flock(&folder, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "a snisplice that runs uses it"))?;
    let flows = MapData::from_pin(own.join(FLOWS))
        .and_then(|data| HashMap::<_, [u32; KEY_WORDS], [u32; ENTRY_WORDS]>::try_from(Map::HashMap(data)))
        .map_or(0, |mut flows| forget_all(&mut flows));
    remove(&own)?;
    Ok(Some(flows))
}

/// The kernel lets go of programs some time after they are unpinned; flows that it does not know it resets at once.
fn forget_all(flows: &mut HashMap<MapData, [u32; KEY_WORDS], [u32; ENTRY_WORDS]>) -> usize {
    let keys: Vec<_> = flows.keys().filter_map(Result::ok).collect();
    for key in &keys {
        let _ = flows.remove(key);
    }
    keys.len() / 2
}

/// Removes the folder with all that is in it.
pub(super) fn remove(own: &Path) -> io::Result<()> {
    remove_all(own)?;
    fs::remove_dir(own)
}

/// Links and filters first: without a program a packet is the stack's, whatever the maps hold.
fn remove_all(own: &Path) -> io::Result<()> {
    let mut paths = own.read_dir()?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort_by_key(|path| !is_link(path));
    paths.iter().try_for_each(|path| {
        clsact::remove_pinned(path)?;
        fs::remove_file(path)
    })
}

/// The name of the link of a program at an interface.
pub(super) fn link(own: &Path, program: &str, device: u32) -> PathBuf {
    own.join(format!("{program}-{device}"))
}

/// The name of the program of a filter at an interface.
pub(super) fn filter(own: &Path, program: &str, device: u32) -> PathBuf {
    own.join(format!("{FILTER}{program}-{device}"))
}

/// Whether it is the name of a filter with this program.
pub(super) fn is_filter_of(path: &Path, program: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix(FILTER)?.split_once('-'))
        .is_some_and(|(found, _)| found == program)
}

/// The interface of a link or a filter.
pub(super) fn device_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.split_once('-')?.1.parse().ok()
}

fn is_link(path: &Path) -> bool {
    device_of(path).is_some()
}
