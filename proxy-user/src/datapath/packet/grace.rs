//! Waiting for packets that are on their way through the kernel, for many flows at a time: one thread waits for all.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

use crate::sys;

type Waiting = oneshot::Sender<io::Result<()>>;

pub(super) struct Grace(mpsc::Sender<Waiting>);

impl Grace {
    /// Err: the kernel does not offer it.
    pub(super) fn start() -> io::Result<Self> {
        sys::wait_for_packets()?;
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().name("grace".to_owned()).spawn(move || run(&receiver))?;
        Ok(Self(sender))
    }

    /// Returns when every packet that is on its way now has come to a socket, or to its end.
    pub(super) async fn wait(&self) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(sender).map_err(|_| io::ErrorKind::BrokenPipe)?;
        receiver.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
    }
}

fn run(waiting: &mpsc::Receiver<Waiting>) {
    while let Ok(first) = waiting.recv() {
        let all: Vec<_> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let result = sys::wait_for_packets();
        for one in all {
            let answer = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(error.kind().into()),
            };
            // Whoever has given up does not mind.
            let _ = one.send(answer);
        }
    }
}
