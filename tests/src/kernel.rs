//! The kernel that the tests run on.

use std::fs;

use anyhow::Result;
use proxy_common::kernels::Kernel;

/// Whether `auto` splices on this kernel. If not, says that the test is skipped.
///
/// # Errors
/// When the kernel does not say what it is.
pub fn is_spliced_by_auto() -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let build = fs::read_to_string("/proc/sys/kernel/version")?;
    let signature = fs::read_to_string("/proc/version_signature").ok();
    let kernel = Kernel { release: release.trim(), build: build.trim(), signature: signature.as_deref() };
    if !kernel.is_good() {
        println!("SKIPPED: auto does not splice on this kernel: Linux {}", release.trim());
    }
    Ok(kernel.is_good())
}
