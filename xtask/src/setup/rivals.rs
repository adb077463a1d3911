//! The other proxies that `bench` measures. Their packages are unpacked below `target/tools` and not installed: no
//! service is started, none is set up for the next boot, and one that runs here is left alone.

use std::path::{Path, PathBuf};

use super::apt;
use crate::console;
use crate::workspace::{own_target, which};

/// Each program with the packages that it comes in.
const PROGRAMS: [(&str, &[&str]); 3] =
    [("haproxy", &["haproxy"]), ("nginx", &["nginx", "libnginx-mod-stream"]), ("sniproxy", &["sniproxy"])];

/// nginx's stream module in its package.
const STREAM_MODULE: &str = "usr/lib/nginx/modules/ngx_stream_module.so";

/// What the guard is measured against.
const NFTABLES: [(&str, &[&str]); 1] = [("nft", &["nftables"])];

/// Unpacks what is neither installed nor unpacked yet, and returns where unpacked programs are. What cannot be had
/// is not measured: the benchmark says so again.
pub(crate) fn unpack() -> Option<PathBuf> {
    unpack_all(&PROGRAMS)
}

/// The same for nftables.
pub(crate) fn unpack_nftables() -> Option<PathBuf> {
    unpack_all(&NFTABLES)
}

fn unpack_all(programs: &[(&str, &[&str])]) -> Option<PathBuf> {
    let root = own_target().join("tools/rivals");
    for &(program, packages) in programs {
        if has(Path::new("/"), program) || has(&root, program) {
            continue;
        }
        if let Err(error) = apt::unpack(packages, &root) {
            console::say(&format!("{program} will not be measured: {error:#}"));
        }
    }
    root.is_dir().then_some(root)
}

fn has(root: &Path, program: &str) -> bool {
    let there = if root == Path::new("/") {
        which(program).is_some()
    } else {
        ["usr/sbin", "usr/bin"].iter().any(|dir| root.join(dir).join(program).is_file())
    };
    there && (program != "nginx" || root.join(STREAM_MODULE).is_file())
}
