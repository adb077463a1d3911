//! Asking the running daemon by its admin socket, and what to do if it does not answer.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Exit, Failure};

/// A daemon that runs answers at once. One that starts answers when its BPF programs are loaded: that takes seconds, and on a slow
/// machine many.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command that has waited for so long says what it waits for.
const NOTICE: Duration = Duration::from_secs(2);

/// Where it stands in the documentation of systemd's units.
const LOG: &str = "its log says more (`journalctl -u snisplice`)";

/// An answer and whether it is a good one.
type Answer = (bool, Vec<u8>);

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Until the whole answer is there.
    pub(super) whole: Duration,
    /// Until the user is told what is waited for. None: the user is not told.
    pub(super) notice: Option<Duration>,
}

impl Patience {
    const OF_COMMANDS: Self = Self { whole: PATIENCE, notice: Some(NOTICE) };
}

/// Asks for what cannot be refused.
pub(super) fn ask(socket: &Path, path: &str) -> Result<Value, Failure> {
    ask_within(socket, path, Patience::OF_COMMANDS)
}

/// The same, and waits for another time.
pub(super) fn ask_within(socket: &Path, path: &str, patience: Patience) -> Result<Value, Failure> {
    let (is_good, answer) = exchange_within(socket, ("GET", path, ""), patience)?;
    if is_good { Ok(answer) } else { Err(Trouble::Foreign.explain(socket)) }
}

/// Asks, or asks to do something; says whether that was done, or why not.
pub(super) fn exchange(
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(bool, Value), Failure> {
    exchange_within(socket, (method, path, body), Patience::OF_COMMANDS)
}

fn exchange_within(
    socket: &Path,
    request: (&str, &str, &str),
    patience: Patience,
) -> Result<(bool, Value), Failure> {
    let answer = converse(socket, request, patience).and_then(|(is_good, body)| {
        serde_json::from_slice(&body).map(|value| (is_good, value)).map_err(|_| Trouble::Foreign)
    });
    answer.map_err(|trouble| trouble.explain(socket))
}

/// Why there is no answer.
#[derive(Debug)]
enum Trouble {
    /// The socket cannot be connected to.
    Connect(io::Error),
    /// It can be connected to, but nobody accepts.
    Queue(Duration),
    /// The connection was taken, and nothing was said in time.
    Silence { waited: Duration, process: Option<i32> },
    /// The connection was cut before the answer was whole.
    Cut,
    /// The daemon has as many open connections as it may have.
    Busy,
    /// What was answered is not from snisplice.
    Foreign,
    /// Anything else.
    Other(io::Error),
}

impl Trouble {
    fn explain(self, socket: &Path) -> Failure {
        let at = socket.display();
        let failure = |text: String| Failure::new(Exit::Unavailable, text);
        match self {
            Self::Connect(error) => explain_connect(socket, &error),
            Self::Queue(waited) => failure(format!(
                "cannot ask {at}: the daemon accepted no connection for {} s, since too many wait or it hangs; `ss -xlp` shows \
                 how many wait; {LOG}",
                waited.as_secs()
            )),
            Self::Silence { waited, process } => {
                let who = process.map_or_else(String::new, |process| format!(" (process {process})"));
                failure(format!(
                    "cannot ask {at}: the daemon{who} has not answered within {} s; it is still starting, or it hangs; try again; \
                     {LOG}",
                    waited.as_secs()
                ))
            }
            Self::Cut => failure(format!(
                "cannot ask {at}: the daemon closed the connection before it had answered, since it ends or has failed; {LOG}"
            )),
            Self::Busy => failure(format!(
                "cannot ask {at}: the daemon has as many open connections there as it may; try again in a few seconds; `ss -xp` \
                 shows who has them open"
            )),
            Self::Foreign => failure(format!(
                "cannot ask {at}: the answer is not one of snisplice; name the socket of snisplice with --socket ([admin] socket of \
                 its configuration)"
            )),
            Self::Other(error) => failure(format!("cannot ask {at}: {error}; try again; {LOG}")),
        }
    }
}

fn explain_connect(socket: &Path, error: &io::Error) -> Failure {
    const OTHER: &str = "name the socket of snisplice with --socket ([admin] socket of its configuration)";
    let at = socket.display();
    let is_socket = socket.metadata().is_ok_and(|found| found.file_type().is_socket());
    let (exit, text) = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            (Exit::Permission, format!("{error}; run as root or as a member of the socket's group"))
        }
        io::ErrorKind::NotFound => {
            (Exit::Unavailable, format!("there is no such file; start the daemon, or {OTHER}"))
        }
        io::ErrorKind::ConnectionRefused if is_socket => (
            Exit::Unavailable,
            "no process listens there; the daemon has ended without removing the socket: start it again"
                .to_owned(),
        ),
        io::ErrorKind::ConnectionRefused => (Exit::Unavailable, format!("it is not a socket; {OTHER}")),
        _ => (Exit::Unavailable, format!("{error}; {OTHER}")),
    };
    Failure::new(exit, format_args!("cannot ask {at}: {text}"))
}

/// One HTTP/1.1 request on a connection of its own (RFC 9112); the body ends with the connection.
fn converse(
    path: &Path,
    (method, target, body): (&str, &str, &str),
    patience: Patience,
) -> Result<Answer, Trouble> {
    let begun = Instant::now();
    let socket = connect(path, patience)?;
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let sent = (&socket).write_all(request.as_bytes());
    let mut answer = Vec::new();
    let received = receive(&socket, &mut answer, begun, patience, path);
    // That is said before the request is read, and may end it with an error.
    if answer.starts_with(b"HTTP/1.1 503 ") {
        return Err(Trouble::Busy);
    }
    let is_http = answer.starts_with(b"HTTP/1.0 ") || answer.starts_with(b"HTTP/1.1 ");
    if !answer.is_empty() && !is_http {
        return Err(Trouble::Foreign);
    }
    received?;
    sent.map_err(|error| if is_cut(&error) { Trouble::Cut } else { Trouble::Other(error) })?;
    if answer.is_empty() {
        return Err(Trouble::Cut);
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or(Trouble::Foreign)?;
    let is_good = answer.get(9..12) == Some(b"200");
    Ok((is_good, answer.split_off(end + 4)))
}

/// The kernel holds a connection that finds no room in the queue of the socket, for as long as is waited at most.
fn connect(path: &Path, patience: Patience) -> Result<Socket, Trouble> {
    let address = SockAddr::unix(path).map_err(Trouble::Connect)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(Trouble::Other)?;
    socket.set_write_timeout(Some(patience.whole)).map_err(Trouble::Other)?;
    match socket.connect(&address) {
        Ok(()) => Ok(socket),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Trouble::Queue(patience.whole)),
        Err(error) => Err(Trouble::Connect(error)),
    }
}

/// Receives all until the end of the connection.
fn receive(
    mut socket: &Socket,
    answer: &mut Vec<u8>,
    begun: Instant,
    patience: Patience,
    path: &Path,
) -> Result<(), Trouble> {
    let mut notice = patience.notice;
    let mut buffer = [0; 16 * 1024];
    loop {
        let limit = notice.map_or(patience.whole, |notice| notice.min(patience.whole));
        let left = limit.saturating_sub(begun.elapsed());
        // Zero would be no limit.
        let left = left.max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left)).map_err(Trouble::Other)?;
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => answer.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(if is_cut(&error) { Trouble::Cut } else { Trouble::Other(error) });
            }
            Err(_) if begun.elapsed() >= patience.whole => {
                let process = rustix::net::sockopt::socket_peercred(socket).ok();
                let process = process.map(|peer| peer.pid.as_raw_nonzero().get());
                return Err(Trouble::Silence { waited: patience.whole, process });
            }
            Err(_) if notice.take().is_some() => tell_of_waiting(path, patience.whole),
            Err(_) => {}
        }
    }
}

/// On standard error, so that what a program reads is not changed. It may be closed.
fn tell_of_waiting(path: &Path, limit: Duration) {
    let _ = writeln!(
        io::stderr(),
        "waiting for the daemon at {}, which may be starting, for up to {} s",
        path.display(),
        limit.as_secs()
    );
}

fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;

    const SHORT: Patience = Patience { whole: Duration::from_millis(50), notice: None };
    const LONG: Patience = Patience { whole: Duration::from_secs(60), notice: None };

    /// A path that no other test has; removed in the end.
    struct File(PathBuf);

    impl File {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("snisplice-ask-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Self(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// What is said of a daemon that answers each connection so.
    fn said_of(name: &str, answer: &'static [u8]) -> Failure {
        let file = File::new(name);
        let listener = UnixListener::bind(&file.0).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            // What is unread when a socket is closed would cut the connection.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let failure = ask_within(&file.0, "/", LONG).unwrap_err();
        daemon.join().unwrap();
        failure
    }

    #[track_caller]
    fn has(failure: &Failure, words: &[&str]) {
        assert_eq!(failure.exit, Exit::Unavailable, "{}", failure.message);
        for word in words {
            assert!(failure.message.contains(word), "no \"{word}\" in: {}", failure.message);
        }
        assert!(!failure.message.contains("os error"), "{}", failure.message);
    }

    #[test]
    fn a_daemon_that_takes_the_connection_and_says_nothing_is_starting_or_hangs() {
        let file = File::new("silent");
        let _listener = UnixListener::bind(&file.0).unwrap();
        let failure = ask_within(&file.0, "/", SHORT).unwrap_err();
        let process = format!("(process {})", std::process::id());
        has(&failure, &["has not answered within 0 s", "starting", "journalctl", &process, "try again"]);
    }

    #[test]
    fn a_daemon_that_accepts_nothing_is_told_from_one_that_says_nothing() {
        let file = File::new("queue");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&file.0).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let waiting = connect(&file.0, SHORT).unwrap();
        has(&ask_within(&file.0, "/", SHORT).unwrap_err(), &["accepted no connection", "ss -xlp"]);
        drop(waiting);
    }

    #[test]
    fn a_socket_that_nobody_listens_on_and_a_file_that_is_none_are_told_apart() {
        let file = File::new("left");
        drop(UnixListener::bind(&file.0).unwrap());
        has(&ask_within(&file.0, "/", LONG).unwrap_err(), &["no process listens", "start it again"]);
        let file = File::new("plain");
        std::fs::write(&file.0, "").unwrap();
        has(&ask_within(&file.0, "/", LONG).unwrap_err(), &["it is not a socket", "--socket"]);
        let missing = ask_within(Path::new("/nonexistent/admin.sock"), "/", LONG).unwrap_err();
        has(&missing, &["/nonexistent/admin.sock", "no such file", "start the daemon", "--socket"]);
    }

    #[test]
    fn a_connection_that_is_cut_and_a_foreign_answer_are_told_apart() {
        has(&said_of("cut", b""), &["closed the connection before", "journalctl"]);
        has(
            &said_of("foreign", b"220 mail.example.com ESMTP\r\n\r\n"),
            &["not one of snisplice", "--socket"],
        );
        has(&said_of("text", b"HTTP/1.1 200 OK\r\n\r\nhello"), &["not one of snisplice"]);
        let busy = said_of("busy", b"HTTP/1.1 503 Service Unavailable\r\n\r\nbusy\n");
        has(&busy, &["open connections", "try again"]);
    }
}
