//! Folders of what daemons have pinned: which ones there are, whose they are, and what is in them.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::ops::{Deref, RangeInclusive};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData};
use aya::programs::{ProgramInfo, SchedClassifier};
use proxy_common::abi::packet::{ENTRY_WORDS, Entry, FLOWS, KEY_WORDS, Key, address_from};
use proxy_common::packet::folder::{Facts, Name, Namespace, Owner, owner};
use rustix::fs::{FlockOperation, flock};

use super::hook::BOTH;
use super::{clsact, into_io, pins, unpin};
use crate::sys;

/// How deep a folder of ours may lie in a BPF file system, and how many folders of it are looked at.
const DEPTH: usize = 4;
const MOST: usize = 10_000;

/// Names of links whose targets say what the daemon goes by: `61000-65535`, and the path of the journal. A BPF file system has no
/// files of its own.
const RANGE: &str = "ports";
const JOURNAL: &str = "journal";
const ATTACH: &str = "attach";
const FILTERS: &str = "clsact";

/// So many entries are looked at to see whose a folder is.
const SAMPLE: usize = 64;

type Entries = HashMap<MapData, [u32; KEY_WORDS], [u32; ENTRY_WORDS]>;

/// One folder.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) owner: Owner,
    /// A daemon uses it.
    pub(crate) is_locked: bool,
    has_filters: bool,
}

/// A folder that no daemon can take as long as the value lives.
#[derive(Debug)]
pub(crate) struct Taken {
    folder: Folder,
    _lock: File,
}

impl Folder {
    /// None: it is no folder of a daemon.
    fn examine(path: PathBuf, own: Namespace, inhabited: &mut Inhabited) -> Option<Self> {
        let name = Name::parse(path.file_name()?.to_str()?)?;
        let file = File::open(&path).ok().filter(|file| file.metadata().is_ok_and(|found| found.is_dir()))?;
        let programs = Programs::of(&path);
        let has_filters = programs.has_filters;
        let mut facts = Facts {
            is_locked: false,
            is_attached_here: programs.is_attached_here,
            is_attached: programs.is_attached,
            is_unclear: programs.is_unclear,
            is_addressed_here: matches!(name, Name::Former(_)) && is_addressed_here(&path),
            has_filters,
            is_inhabited: inhabited.contains(name),
        };
        // A daemon that starts there must not find it locked because somebody else looks: for no longer than the question takes.
        if owner(name, own, facts) == Owner::Other {
            return Some(Self { path, owner: Owner::Other, is_locked: false, has_filters });
        }
        facts.is_locked = lock(&file).is_err();
        drop(file);
        Some(Self { path, owner: owner(name, own, facts), is_locked: facts.is_locked, has_filters })
    }

    /// Keeps daemons from taking the folder.
    ///
    /// # Errors
    /// A daemon has it.
    pub(crate) fn take(self) -> io::Result<Taken> {
        let file = File::open(&self.path)?;
        let busy = || io::Error::new(io::ErrorKind::ResourceBusy, "a running snisplice uses it");
        lock(&file).map_err(|_| busy())?;
        Ok(Taken { folder: self, _lock: file })
    }

    /// Those below `root`.
    pub(crate) fn all_in(root: &Path) -> io::Result<Vec<Self>> {
        let own = sys::namespace()?;
        let mut inhabited = Inhabited::default();
        let found = match root.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            found => found?,
        };
        let paths = found.flatten().map(|entry| entry.path());
        Ok(paths.filter_map(|path| Self::examine(path, own, &mut inhabited)).collect())
    }

    /// Those of this network namespace in all BPF file systems that can be seen from here, but for `except`.
    pub(crate) fn of_this_namespace(except: Option<&Path>) -> io::Result<Vec<Self>> {
        let own = sys::namespace()?;
        let mut search = Search { own, except: except.and_then(number), ..Search::default() };
        for mount in sys::bpf_mounts() {
            search.look_in(&mount, DEPTH);
        }
        Ok(search.found)
    }

    /// How many connections without sockets it has.
    ///
    /// # Errors
    /// The map cannot be read: nobody knows how many there are.
    pub(crate) fn connections(&self) -> io::Result<usize> {
        let Some(flows) = flows(&self.path)? else { return Ok(0) };
        let keys = flows.keys().collect::<Result<Vec<_>, _>>().map_err(into_io)?;
        Ok(keys.len() / 2)
    }

    /// The keys of packets that come from servers.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn server_keys(&self) -> io::Result<Vec<Key>> {
        let Some(flows) = flows(&self.path)? else { return Ok(Vec::new()) };
        let entries = flows.iter().collect::<Result<Vec<_>, _>>().map_err(into_io)?;
        let from_servers = entries.into_iter().filter(|(_, words)| Entry::from_words(words).leg == 1);
        Ok(from_servers.map(|(key, _)| Key::from_words(key)).collect())
    }

    /// Whether programs of it are at interfaces as filters.
    pub(super) const fn has_filters(&self) -> bool {
        self.has_filters
    }

    /// The same, or its daemon attaches them so as soon as it has a connection to offload.
    pub(super) fn takes_filters(&self) -> bool {
        self.has_filters || fs::read_link(self.path.join(ATTACH)).is_ok_and(|way| way == Path::new(FILTERS))
    }

    /// The ports that its daemon takes for new connections.
    pub(super) fn range(&self) -> Option<RangeInclusive<u16>> {
        let text = fs::read_link(self.path.join(RANGE)).ok()?;
        let (first, last) = text.to_str()?.split_once('-')?;
        Some(first.parse().ok()?..=last.parse().ok()?)
    }

    /// Ends its connections and removes it. Says how many connections there were.
    pub(crate) fn remove(self) -> io::Result<usize> {
        self.take()?.remove()
    }
}

impl Taken {
    /// See [`Folder::remove`].
    pub(super) fn remove(self) -> io::Result<usize> {
        // Those of a version with other maps end with its programs.
        let flows = flows(&self.folder.path).ok().flatten();
        let connections = flows.map_or(0, |mut flows| forget_all(&mut flows));
        unpin::remove(&self.folder.path)?;
        Ok(connections)
    }
}

impl Deref for Taken {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.folder
    }
}

/// Locks a folder.
pub(super) fn lock(folder: &File) -> io::Result<()> {
    Ok(flock(folder, FlockOperation::NonBlockingLockExclusive)?)
}

/// What makes it this one, wherever it is mounted.
pub(super) fn number(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Says in a folder what its daemon goes by. `range`: the ports that it takes, and whether it attaches filters; None: no connection joins
/// those that there are.
pub(super) fn record(
    own: &Path,
    range: Option<(&RangeInclusive<u16>, bool)>,
    journal: &Path,
) -> io::Result<()> {
    let filters = range.filter(|(_, filters)| *filters).map(|_| Path::new(FILTERS));
    let range = range.map(|(range, _)| PathBuf::from(format!("{}-{}", range.start(), range.end())));
    for (name, target) in [(RANGE, range.as_deref()), (ATTACH, filters), (JOURNAL, Some(journal))] {
        match fs::remove_file(own.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        target.map_or(Ok(()), |target| symlink(target, own.join(name)))?;
    }
    Ok(())
}

/// The journal of the last daemon that had this folder.
pub(super) fn journal(own: &Path) -> Option<PathBuf> {
    fs::read_link(own.join(JOURNAL)).ok()
}

/// None: none were pinned there yet.
fn flows(folder: &Path) -> io::Result<Option<Entries>> {
    let path = folder.join(FLOWS);
    if !path.try_exists()? {
        return Ok(None);
    }
    if unpin::has_other_layout(folder) {
        return Err(io::Error::other("they are of a version with other maps"));
    }
    let data = MapData::from_pin(path).map_err(into_io)?;
    HashMap::try_from(Map::HashMap(data)).map(Some).map_err(into_io)
}

/// Whether its connections are by addresses of this network namespace, as far as a few of them tell.
fn is_addressed_here(folder: &Path) -> bool {
    let Ok(Some(flows)) = flows(folder) else { return false };
    let keys = flows.keys().filter_map(Result::ok).take(SAMPLE).map(Key::from_words);
    let addresses: HashSet<_> = keys.map(|key| address_from(&key.target)).collect();
    addresses.into_iter().any(sys::is_own_address)
}

/// The kernel lets go of programs some time after they are unpinned; flows that it does not know it resets at once.
fn forget_all(flows: &mut Entries) -> usize {
    let keys: Vec<_> = flows.keys().filter_map(Result::ok).collect();
    for key in &keys {
        let _ = flows.remove(key);
    }
    keys.len() / 2
}

/// Looked up when first asked for.
#[derive(Debug, Default)]
struct Inhabited(Option<BTreeSet<u64>>);

impl Inhabited {
    fn contains(&mut self, name: Name) -> bool {
        let (Name::Former(inode) | Name::Of(Namespace { inode, .. })) = name;
        self.0.get_or_insert_with(sys::inhabited).contains(&inode)
    }
}

/// Of a folder: where they are attached.
#[derive(Debug, Default)]
struct Programs {
    is_attached_here: bool,
    is_attached: bool,
    is_unclear: bool,
    has_filters: bool,
}

impl Programs {
    fn of(folder: &Path) -> Self {
        let mut all = Self::default();
        for pin in folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()) {
            let Some(device) = pins::device_of(&pin) else { continue };
            if pins::is_filter(&pin) {
                all.has_filters = true;
                match is_filter_here(&pin, device) {
                    Ok(is_here) => all.is_attached_here |= is_here,
                    Err(_) => all.is_unclear = true,
                }
            } else {
                match sys::pinned(&pin).and_then(|link| sys::link_at(&link)) {
                    Ok((None, _)) => {}
                    Ok((Some(device), program)) => {
                        all.is_attached = true;
                        match is_here(device, program) {
                            Ok(is_here) => all.is_attached_here |= is_here,
                            Err(_) => all.is_unclear = true,
                        }
                    }
                    Err(_) => all.is_unclear = true,
                }
            }
        }
        all
    }
}

/// Whether the interface with this number in this namespace, which may be another one than that of a link, has the program.
fn is_here(device: u32, program: u32) -> io::Result<bool> {
    let found = match sys::device(device) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        found => found?,
    };
    for (_, kind) in BOTH {
        let (_, programs) = SchedClassifier::query_tcx(&found.name, kind).map_err(io::Error::other)?;
        if programs.iter().any(|one| one.id() == program) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_filter_here(pin: &Path, device: u32) -> io::Result<bool> {
    let Some(kind) = clsact::kind_of(pin) else { return Ok(false) };
    let Some(found) = clsact::program_at(device, kind)? else { return Ok(false) };
    Ok(ProgramInfo::from_pin(pin).map_err(io::Error::other)?.id() == found)
}

/// A walk through BPF file systems.
#[derive(Debug)]
struct Search {
    own: Namespace,
    except: Option<(u64, u64)>,
    seen: HashSet<(u64, u64)>,
    inhabited: Inhabited,
    found: Vec<Folder>,
}

impl Default for Search {
    fn default() -> Self {
        let own = Namespace { cookie: 0, inode: 0 };
        Self { own, except: None, seen: HashSet::new(), inhabited: Inhabited::default(), found: Vec::new() }
    }
}

impl Search {
    fn look_in(&mut self, folder: &Path, depth: usize) {
        // A file system may be mounted at more than one place.
        let Some(this) = number(folder) else { return };
        if self.seen.len() >= MOST || !self.seen.insert(this) {
            return;
        }
        let Ok(entries) = folder.read_dir() else { return };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let path = entry.path();
            let name = path.file_name().and_then(|name| Name::parse(name.to_str()?));
            match name {
                Some(Name::Of(namespace)) if namespace.cookie != self.own.cookie => {}
                Some(Name::Former(inode)) if inode != self.own.inode => {}
                Some(_) => self.take(path),
                None if depth > 0 => self.look_in(&path, depth - 1),
                None => {}
            }
        }
    }

    fn take(&mut self, path: PathBuf) {
        let Some(this) = number(&path) else { return };
        if self.except == Some(this) || !self.seen.insert(this) {
            return;
        }
        let found = Folder::examine(path, self.own, &mut self.inhabited);
        self.found.extend(found.filter(|found| found.owner == Owner::Ours));
    }
}
