//! Which file is read, and what can be wrong with a file as a whole.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::problem::ConfigErrors;
use super::super::source::MAX_BYTES;
use super::super::{DEFAULT, Host, Loaded, Origin, SYSTEM_PATH};
use super::parse;
use super::{LISTEN, UPSTREAM};
use crate::hub::UpstreamRegistry;

fn load(path: Option<&Path>) -> Result<(Loaded, Origin), ConfigErrors> {
    super::super::load(path, &Host::default(), &UpstreamRegistry::default())
}

fn load_from(path: Option<&Path>, system: &Path) -> Result<(Loaded, Origin), ConfigErrors> {
    super::super::load_from(path, system, &Host::default(), &UpstreamRegistry::default())
}

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("snisplice-config-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The one error of the file at `path`, without the path.
fn error_of(path: &Path) -> String {
    let error = load(Some(path)).unwrap_err();
    assert_eq!(error.problems.len(), 1);
    let shown = error.to_string();
    shown.strip_prefix(&path.display().to_string()).unwrap().to_owned()
}

#[test]
fn the_named_file_goes_before_the_system_file_and_that_before_the_default() {
    let directory = Directory::new();
    let file = |name: &str| {
        let listen = LISTEN.replace("tls", name);
        directory.file(name, format!("{listen}to = 'web'\n{UPSTREAM}"))
    };
    let (named, system, absent) = (file("named"), file("system"), directory.0.join("absent"));
    let listener = |path: Option<&Path>, system: &Path| {
        let (loaded, origin) = load_from(path, system).unwrap();
        (loaded.snapshot.listeners[0].name.to_string(), origin)
    };
    assert_eq!(listener(Some(&named), &system), ("named".to_owned(), Origin::File(named.clone())));
    assert_eq!(listener(None, &system), ("system".to_owned(), Origin::File(system.clone())));
    assert_eq!(listener(None, &absent), ("tls".to_owned(), Origin::Embedded));
    assert_eq!(Origin::Embedded.to_string(), "the embedded default");
    assert_eq!(Origin::File(SYSTEM_PATH.into()).to_string(), "/etc/snisplice/snisplice.toml");
}

/// Falling back to the default would hide that the operator's file is not in effect.
#[test]
fn a_system_file_that_cannot_be_read_is_an_error() {
    let directory = Directory::new();
    let dangling = directory.0.join("dangling");
    symlink(directory.0.join("absent"), &dangling).unwrap();
    for path in [&dangling, &directory.0, &directory.file("file", "").join("below")] {
        let error = load_from(None, path).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{}: ", path.display())), "{error}");
    }
}

#[test]
fn what_is_wrong_with_the_file_itself_is_one_error_without_a_line() {
    let directory = Directory::new();
    assert_eq!(
        error_of(&directory.0.join("absent")),
        ": there is no such file; name another one with --config, or write one to start from with 'snisplice config \
         default'"
    );
    assert_eq!(
        error_of(&directory.0),
        ": it is a directory, not a regular file; name a file with --config, or '-' for standard input"
    );
    let error = error_of(&directory.file("file", "").join("below"));
    assert!(error.starts_with(": the file cannot be read: Not a directory"), "{error}");
    let json = serde_json::to_value(load(Some(&directory.0)).unwrap_err().into_problems()).unwrap();
    assert_eq!(
        json,
        serde_json::json!([{
            "file": directory.0.to_str(), "line": null, "column": null,
            "message": "it is a directory, not a regular file; name a file with --config, or '-' for standard input",
        }])
    );
}

/// Root reads every file, so the kernel's answer is put in by hand.
#[test]
fn a_missing_permission_is_one_error() {
    let error = super::super::source::unreadable("a\n.toml", &std::io::ErrorKind::PermissionDenied.into());
    assert_eq!(
        error.to_string(),
        "a\\n.toml: this user may not read the file; give the user that snisplice runs as read access to the file and \
         to the directories above it"
    );
}

#[test]
fn a_file_has_at_most_one_mebibyte() {
    let directory = Directory::new();
    let padded = |size: usize| format!("{DEFAULT}{}", "#".repeat(size - DEFAULT.len()));
    assert!(load(Some(&directory.file("fits", padded(MAX_BYTES)))).is_ok());
    let error = ": the file is larger than 1 MiB; check that this is the right file, and replace lists of names by \
                 '*' and '**' patterns";
    assert_eq!(error_of(&directory.file("large", padded(MAX_BYTES + 1))), error);
    let parsed = parse(&padded(MAX_BYTES + 1), "text").unwrap_err();
    assert_eq!(parsed.to_string(), format!("text{error}"));
}

/// To read from one might never end.
#[test]
fn what_is_no_file_is_not_read() {
    let directory = Directory::new();
    let pipe = directory.0.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let socket = directory.0.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, kind) in
        [(&*pipe, "named pipe (FIFO)"), (&*socket, "socket"), (Path::new("/dev/zero"), "device")]
    {
        assert_eq!(
            error_of(path),
            format!(
                ": it is a {kind}, not a regular file; name a file with --config, or '-' for standard input"
            )
        );
    }
}

#[test]
fn a_byte_that_is_not_utf8_is_shown_with_its_place() {
    let directory = Directory::new();
    let file = directory.file("latin1", b"# one\n# \xc3\xa9 caf\xe9\n");
    assert_eq!(error_of(&file), ":2:8: byte 0xE9 is not UTF-8; save the file as UTF-8");
    let file = directory.file("cut", b"# \xe2\x82");
    assert_eq!(error_of(&file), ":1:3: byte 0xE2 is not UTF-8; save the file as UTF-8");
}
