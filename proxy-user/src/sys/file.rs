//! Files that others may have put in place: opened without waiting, and looked at before they are read.

use std::fs::{File, FileType, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

/// Opens a regular file for reading. A FIFO, a device or a socket is an error at once: opening a FIFO would wait for its
/// writer, and reading a terminal or `/dev/zero` never ends. Symbolic links are followed.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    check_regular(&std::fs::metadata(path)?)?;
    // Something else may be there by now.
    let file = File::from(open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// Like [`open_regular`], and a symbolic link is an error too.
pub(crate) fn open_own(path: &Path) -> io::Result<File> {
    check_own(path)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// Whether `path` is a regular file or nothing at all. Nothing is opened for that.
pub(crate) fn check_own(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) => check_regular(&found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes `path` an empty file, which nobody else has made: what was there before is removed.
pub(crate) fn create_anew(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(open(path, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Takes the lock that is the file `path`, which is made for that and stays. It is held until the file is closed.
///
/// # Errors
/// `WouldBlock`: another process holds it.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::RUSR | Mode::WUSR)?);
    check_regular(&file.metadata()?)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

fn check_regular(found: &Metadata) -> io::Result<()> {
    if found.is_file() {
        return Ok(());
    }
    let what = format!("it is {}, not a regular file", name(found.file_type()));
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

fn name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a named pipe (FIFO)"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("snisplice-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn what_is_no_regular_file_is_named_and_nothing_waits_for_it() {
        let folder = folder("files");
        let (fifo, link, file) = (folder.join("fifo"), folder.join("link"), folder.join("file"));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let said = |result: io::Result<File>| result.err().map(|error| error.to_string());
        for (path, what) in
            [(fifo.as_path(), "FIFO"), (Path::new("/dev/zero"), "a device"), (&folder, "a directory")]
        {
            assert!(said(open_regular(path)).unwrap().contains(what), "{what}");
            assert!(said(open_own(path)).unwrap().contains(what), "{what}");
        }
        assert!(open_regular(&link).is_ok() && open_regular(&file).is_ok() && open_own(&file).is_ok());
        assert!(said(open_own(&link)).unwrap().contains("a symbolic link"));
        assert!(check_own(&folder.join("none")).is_ok());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_made_anew_is_not_the_one_that_a_link_points_to() {
        let folder = folder("anew");
        let (other, link) = (folder.join("other"), folder.join("fresh"));
        std::fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        drop(create_anew(&link).unwrap());
        assert_eq!(std::fs::read(&other).unwrap(), b"precious");
        assert!(link.symlink_metadata().unwrap().is_file());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_lock_is_held_by_one_at_a_time() {
        let folder = folder("lock");
        let path = folder.join("lock");
        let first = lock(&path).unwrap();
        assert_eq!(lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        drop(lock(&path).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
