//! Removing what is pinned in the folder of a daemon.

use std::fs;
use std::io;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use proxy_common::abi::packet::{LAYOUT, STATE, STATE_LAYOUT};

use super::{clsact, pins};
use crate::kernel::Unavailable;

/// Removes what a version with other maps has left: its flows cannot be understood, and end with resets.
pub(super) fn drop_other_layouts(own: &Path) -> Result<(), Unavailable> {
    if !has_other_layout(own) {
        return Ok(());
    }
    tracing::warn!("the packet flows of a version with another layout of maps are ended");
    remove_all(own).map_err(|error| Unavailable::explain("cannot remove what is pinned", &error))
}

/// Whether the maps in a folder are those of a version with other maps.
pub(super) fn has_other_layout(own: &Path) -> bool {
    let path = own.join(STATE);
    let layout = || {
        let state = Array::<_, u32>::try_from(Map::Array(MapData::from_pin(&path)?))?;
        state.get(&STATE_LAYOUT, 0)
    };
    path.exists() && !layout().is_ok_and(|layout| layout == LAYOUT)
}

/// Removes a folder with all that is in it.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    remove_all(folder)?;
    fs::remove_dir(folder)
}

/// Links and filters first: without a program a packet is the stack's, whatever the maps hold.
fn remove_all(folder: &Path) -> io::Result<()> {
    let mut paths = folder.read_dir()?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort_by_key(|path| !pins::is_link(path));
    paths.iter().try_for_each(|path| {
        clsact::remove_pinned(path)?;
        fs::remove_file(path)
    })
}
