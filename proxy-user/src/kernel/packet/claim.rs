//! How a daemon comes to its folder: its own one, that of an earlier version, or that of an earlier daemon with another setting.

use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::programs::tc::{SchedClassifier, TcAttachType};
use proxy_common::abi::packet::Key;
use proxy_common::packet::attach::Attach;
use proxy_common::packet::folder::Owner;
use rustix::fs::statfs;

use super::folder::{self, Folder};
use super::unpin;
use crate::kernel::Unavailable;
use crate::sys;

/// `BPF_FS_MAGIC` (`include/uapi/linux/magic.h`).
const BPF_FS: u64 = 0xcafe_4a11;

/// Somebody may look into the folder just now, and have it locked for that.
const LOCKING: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(10);

/// A folder that is ours as long as the value lives.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(super) path: PathBuf,
    pub(super) lock: File,
    /// Where the last daemon wrote the names of its connections.
    pub(crate) journal: Option<PathBuf>,
    /// Keys of the servers' packets of connections that other daemons of this namespace have.
    pub(crate) others: Vec<Key>,
    /// New connections may join those that are there.
    pub(super) takes_new: bool,
}

/// Err: nothing can be pinned below `root`.
pub(super) fn in_bpf_file_system(root: &Path) -> Result<(), Unavailable> {
    let is_bpf = |path: &Path| statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(BPF_FS));
    let outside = || cannot_pin(root, &io::Error::other("it is in no BPF file system"));
    root.ancestors().any(is_bpf).then_some(()).ok_or_else(outside)
}

fn cannot_pin(root: &Path, error: &io::Error) -> Unavailable {
    Unavailable {
        log: None,
        what: format!("cannot pin to {}: {error}", root.display()),
        remedy: "mount -t bpf bpf /sys/fs/bpf (docker or podman run: -v /sys/fs/bpf:/sys/fs/bpf), or name another BPF file system \
                 with pins in [packet]"
            .to_owned(),
    }
}

impl Claim {
    /// Makes the folder of this network namespace below `root`. `range`: the ports for new connections.
    pub(crate) fn make(
        root: &Path,
        range: &RangeInclusive<u16>,
        journal: &Path,
        attach: Attach,
    ) -> Result<Self, Unavailable> {
        if let Some(denied) = Unavailable::missing_capabilities() {
            return Err(denied);
        }
        in_bpf_file_system(root)?;
        let cannot = |error: io::Error| cannot_pin(root, &error);
        let own = sys::namespace()
            .map_err(|error| Unavailable::explain("cannot tell network namespaces", &error))?;
        let path = root.join(own.to_string());
        fs::create_dir_all(root).map_err(cannot)?;
        remove_left_over(root).map_err(cannot)?;
        take_over_all(&path, range)?;
        fs::create_dir_all(&path).map_err(cannot)?;
        let _turn = turn();
        let claim = Self::lock(path)?;
        folder::record(&claim.path, Some((range, takes_filters(attach))), journal).map_err(cannot)?;
        let path = claim.path.clone();
        claim.beside_others(range).inspect_err(|_| drop(folder::record(&path, None, journal)))
    }

    /// Takes a folder as it is, for the connections that are in it.
    pub(crate) fn of_left(left: Folder) -> Result<Self, Unavailable> {
        let path = left.path.clone();
        drop(left);
        Ok(Self { takes_new: false, ..Self::lock(path)? })
    }

    fn lock(path: PathBuf) -> Result<Self, Unavailable> {
        let failed = |error: io::Error| Unavailable {
            log: None,
            what: format!("another snisplice uses {}: {error}", path.display()),
            remedy: "give each its own pins and ports in [packet]".to_owned(),
        };
        let begun = Instant::now();
        loop {
            let lock = File::open(&path).map_err(failed)?;
            match folder::lock(&lock) {
                // Another one may have its name meanwhile.
                Ok(()) if is_at(&lock, &path) => {
                    let journal = folder::journal(&path);
                    return Ok(Self { path, lock, journal, others: Vec::new(), takes_new: true });
                }
                Err(error) if begun.elapsed() >= LOCKING => return Err(failed(error)),
                Ok(()) | Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Daemons that run in this namespace must have other ports, and no filters, of which an interface has one only.
    fn beside_others(mut self, range: &RangeInclusive<u16>) -> Result<Self, Unavailable> {
        for other in others(&self.path)? {
            if other.is_locked && other.takes_filters() {
                return Err(Unavailable {
                    log: None,
                    what: format!(
                        "another snisplice in this network namespace ({}) has filters at its interfaces, which can have those of one only",
                        other.path.display()
                    ),
                    remedy: "use one snisplice for both configurations, or a kernel with tcx (6.6)"
                        .to_owned(),
                });
            }
            let theirs = other.range();
            // An earlier version does not say which ones it takes.
            if other.is_locked && theirs.as_ref().is_none_or(|theirs| overlap(range, theirs)) {
                let theirs = theirs.map_or_else(
                    || "is of an earlier version, which does not say what ports it takes".to_owned(),
                    |theirs| format!("takes ports {}-{}", theirs.start(), theirs.end()),
                );
                return Err(Unavailable {
                    log: None,
                    what: format!(
                        "ports {}-{} are not free: another snisplice in this network namespace ({}) {theirs}",
                        range.start(),
                        range.end(),
                        other.path.display()
                    ),
                    remedy: "set ports in [packet] to a range of its own in each of the two configurations"
                        .to_owned(),
                });
            }
            self.others.extend(keys_of(&other)?);
        }
        Ok(self)
    }
}

/// The keys of packets that come from servers of another daemon's connections: their ports are in use.
fn keys_of(other: &Folder) -> Result<Vec<Key>, Unavailable> {
    let path = other.path.display();
    match other.server_keys() {
        Err(error) if unpin::has_other_layout(&other.path) => {
            tracing::warn!(
                pins = %path, %error,
                "cannot tell which ports the connections of another snisplice of this network namespace have: a connection by one of them \
                 fails, and is made again by another port"
            );
            Ok(Vec::new())
        }
        keys => keys.map_err(|error| Unavailable {
            log: None,
            what: format!(
                "cannot tell which ports the connections of another snisplice ({path}) have: {error}"
            ),
            remedy: "stop that snisplice, or use one for both configurations".to_owned(),
        }),
    }
}

/// The turn of one daemon of this network namespace: who comes second sees what the first one has claimed, so that one of two that start
/// at the same time has what both want. None: somebody keeps it for long; then each of the two may see the other one, and refuse.
fn turn() -> Option<File> {
    let namespace = File::open("/proc/thread-self/ns/net").ok()?;
    let begun = Instant::now();
    while folder::lock(&namespace).is_err() {
        if begun.elapsed() >= LOCKING {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
    Some(namespace)
}

/// Whether the programs will be filters of a `clsact`: as the operator says, or since this kernel has no links.
fn takes_filters(attach: Attach) -> bool {
    let has_links = || SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
    match attach {
        Attach::Tcx => false,
        Attach::Clsact => true,
        Attach::Auto => !has_links(),
    }
}

fn is_at(folder: &File, path: &Path) -> bool {
    let this = folder.metadata().ok().map(|found| (found.dev(), found.ino()));
    this.is_some() && folder::number(path) == this
}

/// Whether connections by these ports of ours are those of a daemon that takes other ports. An earlier version does not say which ones it
/// takes: then its connections tell.
fn have_other_ports(range: &RangeInclusive<u16>, connections: &[Key]) -> bool {
    let mut ports = connections.iter().map(|key| u16::from_be(key.target_port));
    !connections.is_empty() && !ports.any(|port| range.contains(&port))
}

fn overlap(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

fn others(path: &Path) -> Result<Vec<Folder>, Unavailable> {
    Folder::of_this_namespace(Some(path))
        .map_err(|error| Unavailable::explain("cannot tell network namespaces", &error))
}

/// Removes the folders below `root` whose network namespace is gone.
fn remove_left_over(root: &Path) -> io::Result<()> {
    for found in Folder::all_in(root)?.into_iter().filter(|found| found.owner == Owner::Gone) {
        let pins = found.path.clone();
        match found.remove() {
            Ok(connections) => tracing::info!(
                pins = %pins.display(), connections,
                "removed the pins of a snisplice of a network namespace that no longer exists"
            ),
            Err(error) => tracing::warn!(
                pins = %pins.display(), %error,
                "cannot remove the pins of a snisplice of a network namespace that no longer exists"
            ),
        }
    }
    Ok(())
}

/// Gives the folders of daemons that do not run any more, and that this one replaces, its own name: an earlier version named them
/// otherwise, or `pins` was changed. One whose ports are others belongs to another daemon, which may come back.
fn take_over_all(path: &Path, range: &RangeInclusive<u16>) -> Result<(), Unavailable> {
    for other in others(path)?.into_iter().filter(|other| !other.is_locked) {
        let is_another_s = match other.range() {
            Some(theirs) => !overlap(range, &theirs),
            // In our own place it can only be a predecessor's.
            None if root_of(&other.path) == root_of(path) => false,
            None => other.server_keys().is_ok_and(|keys| have_other_ports(range, &keys)),
        };
        // Our filters would take the place of its own.
        if other.has_filters() || !is_another_s {
            take_over(path, other)?;
            continue;
        }
        let connections = match other.connections() {
            Ok(0) => continue,
            Ok(connections) => connections.to_string(),
            Err(error) => format!("unknown: {error}"),
        };
        tracing::warn!(
            pins = %other.path.display(), connections,
            "another snisplice of this network namespace has left offloaded connections, and does not run. They continue, and no \
             daemon manages them: start it again, or end them with `snisplice doctor --clean --pins {}`",
            root_of(&other.path).display()
        );
    }
    Ok(())
}

fn take_over(path: &Path, other: Folder) -> Result<(), Unavailable> {
    let former = other.path.clone();
    let counted = other.connections();
    let number = counted.as_ref().map_or_else(|_| "the".to_owned(), usize::to_string);
    let remedy = format!(
        "set pins in [packet] to {} until its connections have ended, or end them with `snisplice doctor --clean --pins {}`",
        root_of(&former).display(),
        root_of(&former).display()
    );
    let failed = |error: io::Error| Unavailable {
        log: None,
        what: format!(
            "cannot take over {number} offloaded connections that are pinned in {}: {error}",
            former.display()
        ),
        remedy: remedy.clone(),
    };
    let connections = match counted {
        // They cannot be understood, and end.
        Err(_) if unpin::has_other_layout(&former) => 0,
        counted => counted.map_err(failed)?,
    };
    let other = other.take().map_err(failed)?;
    if connections == 0 && other.path.parent() != path.parent() {
        // Its programs would stay at the interfaces for nothing.
        other.remove().map_err(failed)?;
        return Ok(());
    }
    if path.exists() {
        let own = Folder::all_in(&root_of(path)).map_err(failed)?.into_iter().find(|own| own.path == path);
        let Some(own) = own else { return Err(failed(io::ErrorKind::NotFound.into())) };
        let connections = own.connections().map_err(failed)?;
        if connections > 0 {
            let error = format!("{connections} are pinned in {} as well", path.display());
            return Err(failed(io::Error::other(error)));
        }
        own.remove().map_err(failed)?;
    }
    // Its lock goes with it, and is given up when it has the name by which we take it.
    fs::rename(&former, path).map_err(failed)?;
    tracing::info!(from = %former.display(), pins = %path.display(), connections, "took over the pins of an earlier snisplice");
    Ok(())
}

/// What `pins` is set to for this folder.
fn root_of(folder: &Path) -> PathBuf {
    folder.parent().unwrap_or(folder).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_by_ports_of_ours_are_a_predecessor_s() {
        let keys = |ports: &[u16]| -> Vec<Key> {
            ports.iter().map(|port| Key { target_port: port.to_be(), ..Key::default() }).collect()
        };
        let range = 61_000..=61_009;
        for (ports, expected) in
            [(&[][..], false), (&[61_000], false), (&[7, 61_009], false), (&[60_999, 61_010], true)]
        {
            assert_eq!(have_other_ports(&range, &keys(ports)), expected, "{ports:?}");
        }
    }

    #[test]
    fn ranges_overlap_where_they_have_a_port_in_common() {
        for (one, other, expected) in [
            (1..=2, 2..=3, true),
            (1..=2, 3..=4, false),
            (3..=4, 1..=2, false),
            (1..=9, 4..=5, true),
            (4..=5, 1..=9, true),
        ] {
            assert_eq!(overlap(&one, &other), expected, "{one:?} {other:?}");
        }
    }
}
