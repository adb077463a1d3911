//! Where the admin endpoint can be reached.

use std::fs::DirBuilder;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Admin, full_router, router};
use crate::hub::snapshot;
use crate::sys;

/// The open endpoint. The socket file is removed when it is dropped.
pub(crate) struct Listeners {
    http: Option<TcpListener>,
    socket: Option<(UnixListener, SocketFile)>,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens what the configuration asks for.
pub(crate) fn open(config: &snapshot::Admin) -> anyhow::Result<Listeners> {
    let http = config.http.map(open_http).transpose()?;
    let socket = config.socket.as_deref().map(open_socket).transpose()?;
    Ok(Listeners { http, socket })
}

fn open_http(address: SocketAddr) -> anyhow::Result<TcpListener> {
    sys::bind(address, false, None).map_err(|error| {
        let remedy = format!(
            "find what listens there with `ss -ltnp sport = :{}`; a second snisplice needs an http and a socket of its own",
            address.port()
        );
        let text = format!("cannot listen on {address} ([admin] http): {error}; {remedy}");
        anyhow::Error::new(error).context(text)
    })
}

fn open_socket(path: &Path) -> anyhow::Result<(UnixListener, SocketFile)> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let failed = |error: io::Error, what: String| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "make the folder for this user (systemd: RuntimeDirectory=snisplice), or set another path"
            }
            _ => "set another path, or \"\" for none",
        };
        let text = format!("{what} ([admin] socket): {error}; {remedy}");
        anyhow::Error::new(error).context(text)
    };
    if !folder.exists() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|error| failed(error, format!("cannot make the folder {}", folder.display())))?;
    }
    make_socket(path).map_err(|error| failed(error, format!("cannot make the socket {}", path.display())))
}

fn make_socket(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok((listener, file))
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
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another snisplice answers there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// Serves until dropped.
pub(crate) async fn serve(listeners: Listeners, admin: Arc<Admin>) -> io::Result<()> {
    let (router, full) = (router(Arc::clone(&admin)), full_router(admin));
    let http = async {
        match listeners.http {
            Some(listener) => axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await,
            None => std::future::pending().await,
        }
    };
    let socket = async {
        match listeners.socket {
            Some((listener, _file)) => axum::serve(tokio::net::UnixListener::from_std(listener)?, full).await,
            None => std::future::pending().await,
        }
    };
    tokio::try_join!(http, socket).map(|_: ((), ())| ())
}
