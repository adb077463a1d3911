//! What daemons have pinned in the BPF file systems of this host: `doctor` lists it, and `doctor --clean` removes it.

use std::io;
use std::path::Path;

use proxy_common::packet::folder::Owner;

use super::{Exit, Failure};
use crate::kernel::packet::Folder;

/// What is said of one folder, and what to do about it.
pub(super) struct Pinned {
    pub(super) found: String,
    pub(super) remedy: Option<String>,
}

/// All that belongs to this network namespace, and what is below `root`.
pub(super) fn list(root: &Path) -> Vec<Pinned> {
    let ours = Folder::of_this_namespace(None).unwrap_or_default().into_iter();
    let others = Folder::all_in(root).unwrap_or_default().into_iter().filter(|one| one.owner != Owner::Ours);
    ours.chain(others).map(|folder| describe(&folder)).collect()
}

fn describe(folder: &Folder) -> Pinned {
    let path = folder.path.display();
    let (connections, has_none) = match folder.connections() {
        Ok(connections) => (connections.to_string(), connections == 0),
        Err(error) => (format!("an unknown number ({error}) of"), false),
    };
    let root = folder.path.parent().unwrap_or(&folder.path).display();
    let clean = format!("to end and remove them: snisplice doctor --clean --pins {root}");
    let (found, remedy) = match folder.owner {
        Owner::Ours if folder.is_locked => ("a running snisplice uses it", None),
        Owner::Ours if has_none => ("no daemon uses it", None),
        Owner::Ours => (
            "they continue without a daemon; a firewall of this host does not see their packets",
            Some(format!("snisplice run manages them; {clean}")),
        ),
        Owner::Other => ("of another network namespace", None),
        Owner::Deserted => ("of a network namespace without visible processes and mounts", Some(clean)),
        Owner::Gone => ("of a network namespace that no longer exists; its maps take 32 MiB", Some(clean)),
    };
    Pinned { found: format!("{path}: {connections} offloaded connections; {found}"), remedy }
}

/// Removes what the packet datapath has pinned below `root` for this network namespace, and for those that are gone. Says what that
/// was.
pub(crate) fn clean(root: &Path) -> Result<String, Failure> {
    clean_all(root).map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::System,
        };
        Failure::new(exit, format_args!("cannot clean {}: {error}", root.display()))
    })
}

fn clean_all(root: &Path) -> io::Result<String> {
    let (ours, others): (Vec<_>, Vec<_>) =
        Folder::all_in(root)?.into_iter().partition(|folder| folder.owner == Owner::Ours);
    let mut said = String::new();
    for folder in ours {
        let flows = folder.remove()?;
        said += &format!("removed; {flows} offloaded connections have ended\n");
    }
    for folder in others.into_iter().filter(|one| matches!(one.owner, Owner::Gone | Owner::Deserted)) {
        let path = folder.path.clone();
        let flows = folder.remove()?;
        said += &format!(
            "removed {} of a network namespace that no longer exists, with {flows} connections\n",
            path.display()
        );
    }
    if said.is_empty() {
        said = format!("nothing is pinned at {} in this network namespace\n", root.display());
    }
    for folder in Folder::of_this_namespace(None)? {
        let path = folder.path.display();
        match folder.connections() {
            _ if folder.is_locked => {}
            Ok(0) => {}
            Ok(connections) => {
                said += &format!(
                    "{connections} offloaded connections of this network namespace are pinned at {path}\n"
                );
            }
            Err(error) => {
                said +=
                    &format!("offloaded connections that cannot be counted are pinned at {path}: {error}\n");
            }
        }
    }
    Ok(said)
}
