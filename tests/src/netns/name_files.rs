//! The files that say how names are looked up, of one namespace: `ip netns exec` puts them over those of the host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Namespace;

/// Where `ip` looks for the files of namespaces (ip-netns(8)).
const ALL: &str = "/etc/netns";

fn folder(namespace: &str) -> PathBuf {
    Path::new(ALL).join(namespace)
}

/// Removes the files of a namespace, if there are any.
pub(super) fn remove(namespace: &str) {
    drop(fs::remove_dir_all(folder(namespace)));
}

impl Namespace {
    /// Sets what `/etc/hosts` and `/etc/resolv.conf` say to programs that [`Namespace::command`] starts from now on. Those that run
    /// already, and were started after the first call, see the change.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn set_names(&self, hosts: &str, resolv_conf: &str) -> Result<()> {
        let folder = folder(self.name());
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        for (name, text) in [("hosts", hosts), ("resolv.conf", resolv_conf)] {
            // In place: what is mounted is this very file.
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}
