//! The names of what is pinned in the folder of a daemon.

use std::path::{Path, PathBuf};

/// What the names of programs of filters begin with.
const FILTER: &str = "filter_";

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

/// Whether it is the name of a filter.
pub(super) fn is_filter(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(FILTER))
}

/// The interface of a link or a filter.
pub(super) fn device_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.split_once('-')?.1.parse().ok()
}

/// Whether it is the name of a link or a filter.
pub(super) fn is_link(path: &Path) -> bool {
    device_of(path).is_some()
}
