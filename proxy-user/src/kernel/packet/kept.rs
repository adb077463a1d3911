//! What is pinned is watched: a file that somebody else has removed is made again, as long as nothing else has its name.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Packet, folder, lock};
use crate::sys;

/// An object that is to be found under a name in a BPF file system. It is held open here.
pub(super) struct Pinned {
    path: PathBuf,
    pub(super) fd: OwnedFd,
    id: u32,
}

impl Pinned {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let fd = sys::pinned(&path)?;
        Ok(Self { id: sys::object_id(&fd)?, path, fd })
    }

    /// Some: it was not there, and is to stay. Err: and is not now.
    fn look(&self, is_to_stay: impl Fn() -> bool) -> Option<io::Result<()>> {
        match sys::pinned(&self.path) {
            Ok(found) if sys::object_id(&found).is_ok_and(|id| id == self.id) => None,
            Ok(_) => Some(Err(io::Error::other("something else is pinned there"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                is_to_stay().then(|| sys::pin(&self.fd, &self.path))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// What is pinned of the maps, and what is wrong with pins.
pub(super) struct Kept {
    maps: Vec<Pinned>,
    /// What a claim says of itself beside them: symbolic links, and what they say.
    notes: Vec<(PathBuf, PathBuf)>,
    /// Why the next daemon would not find all. None: it would.
    trouble: Option<String>,
    /// All is to go.
    is_over: bool,
}

impl Kept {
    pub(super) fn of(maps: Vec<Pinned>, own: &Path) -> Self {
        let files = fs::read_dir(own).into_iter().flatten().flatten().map(|file| file.path());
        let notes = files.filter_map(|path| fs::read_link(&path).ok().map(|target| (path, target))).collect();
        Self { maps, notes, trouble: None, is_over: false }
    }
}

/// What was done about pins.
#[derive(Debug, Default)]
pub(crate) struct Repinned {
    /// Names of files that were made again.
    pub(crate) again: Vec<String>,
    /// What could not be mended, if that is news.
    pub(crate) trouble: Option<String>,
}

impl Packet {
    /// Looks at all that is pinned, and pins what is not any more.
    pub(crate) fn look_at_pins(&self) -> Repinned {
        let mut kept = lock(&self.kept);
        let mut found = Repinned::default();
        if kept.is_over {
            return found;
        }
        let held = self.devices.all_held();
        let mut trouble = self.find_folder().err().map(|error| (self.pins.clone(), error));
        if trouble.is_none() {
            let maps = kept.maps.iter().map(|pinned| (pinned, None));
            let links = held
                .iter()
                .flat_map(|(device, held)| held.pins.iter().map(move |pin| (pin, Some((*device, held)))));
            for (pinned, of) in maps.chain(links) {
                // The pins of an interface that has just gone are removed by ourselves.
                let is_to_stay = || of.is_none_or(|(device, held)| self.devices.table().has(device, held));
                match pinned.look(is_to_stay) {
                    None => {}
                    Some(Ok(())) => found.again.push(name(&pinned.path)),
                    Some(Err(error)) => drop(trouble.get_or_insert((pinned.path.clone(), error))),
                }
            }
        }
        for (path, target) in kept.notes.iter().filter(|_| trouble.is_none()) {
            // Another one's that is there by now is left alone.
            if symlink(target, path).is_ok() {
                found.again.push(name(path));
            }
        }
        let trouble = trouble.map(|(path, error)| {
            format!("{} cannot be pinned again: {error}; remove what is there, or the next daemon finds no offloaded connection", path.display())
        });
        if trouble != kept.trouble {
            found.trouble.clone_from(&trouble);
            kept.trouble = trouble;
        }
        found
    }

    /// From now on nothing is pinned again, and links end with their pins.
    pub(super) fn let_go(&self) {
        lock(&self.kept).is_over = true;
        self.devices.let_go();
    }

    /// What is wrong with pins. None: nothing.
    pub(crate) fn pins_trouble(&self) -> Option<String> {
        lock(&self.kept).trouble.clone()
    }

    /// The folder of the pins, made and locked again if it has gone.
    fn find_folder(&self) -> io::Result<()> {
        if self.pins.try_exists()? {
            return Ok(());
        }
        fs::create_dir_all(&self.pins)?;
        let folder = fs::File::open(&self.pins)?;
        folder::lock(&folder)?;
        *lock(&self.only) = folder;
        Ok(())
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
