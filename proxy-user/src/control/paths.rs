//! The files that the daemon trusts: whether others may change them, and whether they are files at all.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::config::{self, Origin, Problem};
use super::{Exit, Failure};
use crate::hub::snapshot::Snapshot;
use crate::sys;

const EVERYBODY: u32 = 0o002;
const GROUP: u32 = 0o020;
/// Only the owner of a file may rename or remove it, though others may write to the folder.
const STICKY: u32 = 0o1000;

/// Others than root and the daemon's own user may change what it trusts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Risk {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// Whether what the daemon is going to write to is a file.
///
/// # Errors
/// It is something else, such as a FIFO, whose opening waits for a reader.
pub(crate) fn check(snapshot: &Snapshot) -> Result<(), Failure> {
    let journal = &snapshot.packet.journal;
    if !snapshot.wants_packet() {
        return Ok(());
    }
    sys::check_own(journal).or_else(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => {
            let message = format!(
                "{} cannot be the journal ([packet] journal): {error}; remove it, or name another path",
                journal.display()
            );
            Err(Failure::new(Exit::Config, message))
        }
        // The journal tells why it cannot be written, and the daemon goes on without.
        _ => Ok(()),
    })
}

/// What others may change of the files of this configuration.
pub(crate) fn warnings(snapshot: &Snapshot, origin: &Origin) -> Vec<Problem> {
    let mut paths = Vec::new();
    if let Origin::File(path) = origin {
        paths.push(path.clone());
    }
    paths.extend(snapshot.admin.socket.clone());
    paths.extend(snapshot.guard.as_ref().and_then(|guard| guard.deny_file.clone()));
    if snapshot.wants_packet() {
        paths.push(snapshot.packet.journal.clone());
        paths.push(in_folder(&snapshot.packet.pins));
    }
    let problem = |Risk { what, remedy }| Problem {
        file: origin.to_string(),
        line: None,
        column: None,
        message: format!("{what}; {remedy}"),
    };
    risks(&paths).into_iter().map(problem).collect()
}

/// What others may change of the files that a daemon has where nothing else is configured.
pub(in crate::control) fn of_defaults(pins: &Path) -> Vec<Risk> {
    let config = PathBuf::from(config::SYSTEM_PATH);
    let socket = PathBuf::from("/run/snisplice/admin.sock");
    risks(&[config, socket, in_folder(pins)])
}

/// The name of something in a folder, for what is to be in there.
fn in_folder(folder: &Path) -> PathBuf {
    folder.join("0")
}

fn risks(paths: &[PathBuf]) -> Vec<Risk> {
    let mut found: Vec<Risk> = Vec::new();
    for path in paths {
        // Where a symbolic link leads is trusted as much as the link.
        let real = path.canonicalize().ok().filter(|real| real != path);
        for risk in [Some(path.clone()), real].into_iter().flatten().filter_map(|path| risk(&path)) {
            if !found.contains(&risk) {
                found.push(risk);
            }
        }
    }
    found
}

fn risk(path: &Path) -> Option<Risk> {
    if let Ok(file) = path.symlink_metadata().as_ref()
        && file.is_file()
        && let Some(who) = writers(file)
    {
        return Some(Risk {
            what: format!("{who} may change {} (mode {:04o})", path.display(), file.mode() & 0o7777),
            remedy: format!("`chmod go-w {}`", path.display()),
        });
    }
    path.ancestors().skip(1).zip(path.ancestors()).find_map(|(folder, inside)| {
        let found = folder.metadata().ok()?;
        let who = writers(&found)?;
        if found.mode() & STICKY != 0 && inside.symlink_metadata().is_ok_and(|inside| is_ours(&inside)) {
            return None;
        }
        Some(Risk {
            what: format!(
                "{who} may write to the folder {} (mode {:04o}), and so replace {}",
                folder.display(),
                found.mode() & 0o7777,
                path.display()
            ),
            remedy: format!("`chmod go-w {}`, or use another folder", folder.display()),
        })
    })
}

/// Who may write beside the owner.
fn writers(found: &Metadata) -> Option<String> {
    if found.mode() & EVERYBODY != 0 {
        return Some("every user of this host".to_owned());
    }
    (found.mode() & GROUP != 0 && found.gid() != 0).then(|| format!("the group {}", found.gid()))
}

fn is_ours(found: &Metadata) -> bool {
    found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn who_may_change_a_file_or_its_folder_is_found() {
        let top = std::env::temp_dir().join(format!("snisplice-paths-{}", std::process::id()));
        let folder = top.join("folder");
        fs::create_dir_all(&folder).unwrap();
        set(&top, 0o755);
        set(&folder, 0o755);
        let file = folder.join("file");
        let said = || risk(&file).map(|risk| risk.what);
        let place = folder.display().to_string();
        assert_eq!(said(), None, "not there, in a folder of ours");

        set(&folder, 0o1777);
        assert!(said().unwrap().contains(&place), "somebody else may make it");
        fs::write(&file, "").unwrap();
        set(&file, 0o644);
        assert_eq!(said(), None, "ours, and nobody else can remove it");
        set(&folder, 0o777);
        assert!(said().unwrap().starts_with("every user of this host may write to the folder"));
        set(&folder, 0o755);
        set(&file, 0o666);
        assert!(said().unwrap().starts_with("every user of this host may change"));
        set(&file, 0o644);
        set(&top, 0o777);
        assert!(said().unwrap().contains(&format!("the folder {} (mode 0777)", top.display())));
        set(&top, 0o755);

        set(&folder, 0o775);
        if chown(&folder, None, Some(12345)).is_err() {
            println!("SKIPPED: the rest needs root");
        } else {
            set(&folder, 0o775);
            assert!(said().unwrap().starts_with("the group 12345 may write"));
            chown(&folder, None, Some(0)).unwrap();
            assert_eq!(said(), None, "root's group is root");
        }
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn where_a_link_leads_is_looked_at_too() {
        let top = std::env::temp_dir().join(format!("snisplice-links-{}", std::process::id()));
        let (safe, open) = (top.join("safe"), top.join("open"));
        for folder in [&safe, &open] {
            fs::create_dir_all(folder).unwrap();
        }
        set(&top, 0o755);
        set(&safe, 0o755);
        fs::write(open.join("file"), "").unwrap();
        set(&open, 0o777);
        let link = safe.join("link");
        std::os::unix::fs::symlink(open.join("file"), &link).unwrap();
        let found = risks(&[link]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.contains(&open.display().to_string()), "{found:?}");
        fs::remove_dir_all(&top).unwrap();
    }
}
