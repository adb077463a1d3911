//! The kernel that this process runs on.

use std::fs;

use proxy_common::kernels;
use rustix::system::uname;

/// What the kernel says of itself.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Its release, and the mainline version that it is built from if that is another one.
    pub(crate) name: String,
    /// None: it does not say.
    pub(crate) version: Option<kernels::Version>,
    /// Whether it is known to splice without a fault.
    pub(crate) is_good: bool,
    /// Whether it is known to offload without a fault.
    pub(crate) offloads: bool,
}

/// Asks the kernel.
pub(crate) fn kernel() -> Kernel {
    let told = uname();
    let (release, build) = (told.release().to_string_lossy(), told.version().to_string_lossy());
    let signature = fs::read_to_string("/proc/version_signature").ok();
    let kernel = kernels::Kernel { release: &release, build: &build, signature: signature.as_deref() };
    let name = match kernel.version().map(|version| version.to_string()) {
        Some(version) if !release.starts_with(&version) => format!("{release} (built from {version})"),
        _ => release.clone().into_owned(),
    };
    let (version, is_good, offloads) = (kernel.version(), kernel.is_good(), kernel.offloads());
    Kernel { name, version, is_good, offloads }
}
