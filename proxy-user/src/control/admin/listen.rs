//! Where the admin endpoint can be reached.

use std::fs::{DirBuilder, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use super::serve::{self, Bounds};
use super::{Admin, http_router, socket_router};
use crate::hub::snapshot;
use crate::sys;

/// Clients of the socket that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The open endpoint. The socket file is removed when it is dropped.
pub(crate) struct Listeners {
    http: Option<TcpListener>,
    socket: Option<(UnixListener, SocketFile)>,
}

/// The socket file of this daemon, and the lock that says so. Whoever has the lock may replace or remove the file.
struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
    _lock: File,
}

impl SocketFile {
    fn new(path: &Path, lock: File) -> io::Result<Self> {
        let found = path.symlink_metadata()?;
        Ok(Self { path: path.to_owned(), device_and_inode: (found.dev(), found.ino()), _lock: lock })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = self.path.symlink_metadata();
        // Somebody may have put another socket there, with the lock file removed.
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.device_and_inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Why the endpoint cannot be opened: what failed, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}; {remedy}")]
pub(crate) struct CannotOpen {
    what: String,
    #[source]
    pub(crate) error: io::Error,
    remedy: String,
}

/// Opens what the configuration asks for.
pub(crate) fn open(config: &snapshot::Admin) -> Result<Listeners, CannotOpen> {
    let http = config.http.map(open_http).transpose()?;
    let socket = config.socket.as_deref().map(open_socket).transpose()?;
    Ok(Listeners { http, socket })
}

fn open_http(address: SocketAddr) -> Result<TcpListener, CannotOpen> {
    sys::bind(address, false, None).map_err(|error| {
        let remedy = format!(
            "find what listens there with `ss -ltnp sport = :{}`; a second snisplice needs an http and a socket of its own",
            address.port()
        );
        CannotOpen { what: format!("cannot listen on {address} ([admin] http)"), error, remedy }
    })
}

fn open_socket(path: &Path) -> Result<(UnixListener, SocketFile), CannotOpen> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let failed = |error: io::Error, what: String| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "make the folder for this user (systemd: RuntimeDirectory=snisplice), or set another path"
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                "mount a tmpfs there (docker or podman run: --tmpfs /run), set another path, or \"\" for none"
            }
            _ => "set another path, or \"\" for none",
        };
        CannotOpen { what: format!("{what} ([admin] socket)"), error, remedy: remedy.to_owned() }
    };
    if !folder.exists() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|error| failed(error, format!("cannot make the folder {}", folder.display())))?;
    }
    make_socket(path).map_err(|error| failed(error, format!("cannot make the socket {}", path.display())))
}

fn make_socket(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock = sys::lock(Path::new(&lock_path)).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => in_use("another snisplice uses it"),
        kind => io::Error::new(kind, format!("cannot lock {}: {error}", Path::new(&lock_path).display())),
    })?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file gets the mode of the socket: at no time may others than the group connect.
    fchmod(&socket, Mode::from(0o660))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::new(path, lock)?;
    // What the umask took away.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), file))
}

fn in_use(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, what)
}

/// A socket that nobody answers on was left by a daemon that was killed. Anything else there is not ours.
fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = match path.symlink_metadata() {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose queue is full answers at once too, then.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(()) => Err(in_use("another program answers there")),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(in_use("another program listens there"))
        }
        Err(error) => Err(error),
    }
}

/// Serves until dropped.
pub(crate) async fn serve(listeners: Listeners, admin: Arc<Admin>) -> io::Result<()> {
    let (router, full) = (http_router(&admin), socket_router(Arc::clone(&admin)));
    // Each has places of its own: whoever fills one does not keep the operator from the other.
    let bounds = Bounds::of(admin.hub.connection_limit.admin());
    let http = async {
        let Some(listener) = listeners.http else { return Ok(()) };
        serve::serve(tokio::net::TcpListener::from_std(listener)?, router, bounds).await;
        Ok(())
    };
    let socket = async {
        let Some((listener, _file)) = listeners.socket else { return Ok(()) };
        serve::serve(tokio::net::UnixListener::from_std(listener)?, full, bounds).await;
        Ok(())
    };
    tokio::try_join!(http, socket).map(|_: ((), ())| ())
}
