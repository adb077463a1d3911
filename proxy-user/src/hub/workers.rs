//! The workers as others see them: how many connections each has, and its mailbox.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proxy_common::balance;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::snapshot::{Listener, Snapshot};
use super::{AccessRecord, Flow, Permit, SourcePermit};

/// Accepted connections that may be on their way to one worker. The next ones stay where they are.
const ON_THE_WAY: usize = 64;

/// What a worker is told to do.
pub(crate) enum Command {
    /// Accept the connections of this socket.
    Listen(Bound),
    /// Accept what is queued at the socket with this key, and close it.
    Unlisten(ListenerKey),
    /// Serve a connection that another worker has accepted.
    Serve(Newcomer),
    /// Go on with a connection that has sockets again.
    Restore(Restored),
    /// Accept what is queued at all sockets, and close them.
    Drain,
}

/// One address of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ListenerKey {
    pub(crate) name: Arc<str>,
    pub(crate) address: SocketAddr,
}

/// A listening socket and its listener in the configuration.
pub(crate) struct Bound {
    pub(crate) key: ListenerKey,
    pub(crate) listener: Arc<Listener>,
    pub(crate) socket: TcpListener,
}

/// An accepted connection on its way to the worker that has its seat.
pub(crate) struct Newcomer {
    pub(crate) stream: TcpStream,
    pub(crate) client: SocketAddr,
    pub(crate) under: Under,
    pub(crate) held: Held,
}

/// What a connection is accepted under.
pub(crate) struct Under {
    pub(crate) listener: Arc<Listener>,
    pub(crate) config: Arc<Snapshot>,
}

/// What a connection counts for, from before it is accepted until its sockets are closed.
pub(crate) struct Held {
    pub(crate) seat: Seat,
    pub(crate) source_permit: Option<SourcePermit>,
    /// Of all connections.
    pub(crate) permit: Permit,
}

/// An offloaded connection with new sockets, the client's first. They are armed to reset.
pub(crate) struct Restored {
    pub(crate) flow: Arc<Flow>,
    pub(crate) record: AccessRecord,
    pub(crate) sockets: [TcpStream; 2],
    pub(crate) permit: Permit,
}

/// All workers.
pub(crate) struct Workers {
    all: Vec<Mailbox>,
    /// The one that gets the next restored connection.
    next: AtomicUsize,
}

struct Mailbox {
    connections: AtomicUsize,
    /// Newcomers in the mailbox.
    waiting: Arc<AtomicUsize>,
    commands: UnboundedSender<Command>,
}

/// Where a worker gets its commands.
pub(crate) struct Inbox {
    waiting: Arc<AtomicUsize>,
    commands: UnboundedReceiver<Command>,
}

impl Inbox {
    /// The next command.
    pub(crate) async fn next(&mut self) -> Option<Command> {
        let command = self.commands.recv().await;
        if let Some(Command::Serve(_)) = &command {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        command
    }

    /// A command that is there already.
    #[cfg(test)]
    pub(crate) fn try_next(&mut self) -> Option<Command> {
        self.commands.try_recv().ok()
    }
}

impl Workers {
    /// For so many workers, and the inbox of each. Commands wait for a worker that has not begun.
    pub(crate) fn new(workers: usize) -> (Arc<Self>, Vec<Inbox>) {
        let (all, inboxes) = (0..workers)
            .map(|_| {
                let ((sender, receiver), waiting) = (unbounded_channel(), Arc::<AtomicUsize>::default());
                let inbox = Inbox { waiting: Arc::clone(&waiting), commands: receiver };
                (Mailbox { connections: AtomicUsize::new(0), waiting, commands: sender }, inbox)
            })
            .unzip();
        (Arc::new(Self { all, next: AtomicUsize::new(0) }), inboxes)
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// Has a worker accept the connections of a socket. A worker that has gone stops the daemon anyway.
    pub(crate) fn listen(&self, worker: usize, bound: Bound) {
        if let Some(mailbox) = self.all.get(worker) {
            let _ = mailbox.commands.send(Command::Listen(bound));
        }
    }

    /// Has all workers close their socket with this key.
    pub(crate) fn unlisten(&self, key: &ListenerKey) {
        for mailbox in &self.all {
            let _ = mailbox.commands.send(Command::Unlisten(key.clone()));
        }
    }

    /// Has all workers close their listening sockets.
    pub(crate) fn drain(&self) {
        for mailbox in &self.all {
            let _ = mailbox.commands.send(Command::Drain);
        }
    }

    /// A seat for a connection that worker `own` has accepted, there or at another worker.
    pub(crate) fn seat(self: &Arc<Self>, own: usize) -> Seat {
        let loads = self.all.iter().map(|mailbox| mailbox.connections.load(Ordering::Relaxed));
        Seat::take(Arc::clone(self), balance::worker(own, loads))
    }

    /// Sends a connection to the worker that it has a seat at. Err: there are too many on their way, or the worker has gone.
    pub(crate) fn serve(&self, newcomer: Newcomer) -> Result<(), Box<Newcomer>> {
        let Some(mailbox) = self.all.get(newcomer.held.seat.worker) else { return Err(Box::new(newcomer)) };
        if mailbox.waiting.fetch_add(1, Ordering::Relaxed) >= ON_THE_WAY {
            mailbox.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Box::new(newcomer));
        }
        match mailbox.commands.send(Command::Serve(newcomer)).map_err(|error| error.0) {
            Err(Command::Serve(newcomer)) => Err(Box::new(newcomer)),
            _ => Ok(()),
        }
    }

    /// Sends a restored connection to a worker, the next one each time. Err: the worker has gone. The sockets are closed, and
    /// the record is given back.
    pub(crate) fn restore(&self, restored: Restored) -> Result<(), Box<AccessRecord>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len().max(1);
        let Some(mailbox) = self.all.get(turn) else { return Err(Box::new(restored.record)) };
        match mailbox.commands.send(Command::Restore(restored)).map_err(|error| error.0) {
            Err(Command::Restore(restored)) => Err(Box::new(restored.record)),
            _ => Ok(()),
        }
    }
}

/// A connection counts for its worker as long as this lives.
pub(crate) struct Seat {
    workers: Arc<Workers>,
    pub(crate) worker: usize,
}

impl Seat {
    fn take(workers: Arc<Workers>, worker: usize) -> Self {
        if let Some(mailbox) = workers.all.get(worker) {
            mailbox.connections.fetch_add(1, Ordering::Relaxed);
        }
        Self { workers, worker }
    }

    /// The same at another worker.
    pub(crate) fn at(&self, worker: usize) -> Self {
        Self::take(Arc::clone(&self.workers), worker)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(mailbox) = self.workers.all.get(self.worker) {
            mailbox.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
