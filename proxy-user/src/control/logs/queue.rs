//! Log records on their way to stderr: a bounded queue, and a thread that writes. Whoever reads the log may be slow, or stop
//! reading: no connection waits for that.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use crate::hub::run_again;

/// Bytes that records in the queue may take, with [`OVERHEAD`]: some 8,000 access records.
const CAPACITY: usize = 4 << 20;

/// What a record takes beside its bytes.
const OVERHEAD: usize = 64;

/// Longer records are cut.
const RECORD_MAX: usize = 16 << 10;

/// What the writer's own records may take beyond the capacity: it says how many were dropped while the queue may be full.
const RESERVE: usize = 2 * (RECORD_MAX + OVERHEAD);

/// While the queue never gets empty, it is said at most so often how many records were dropped.
const SAY_EVERY: Duration = Duration::from_secs(10);

const CUT: &[u8] = b"... (cut)\n";

thread_local! {
    static IS_WRITER: Cell<bool> = const { Cell::new(false) };
}

/// Shared by those who log and the thread that writes.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    dropped: Counter,
}

#[derive(Default)]
struct State {
    records: VecDeque<Box<[u8]>>,
    /// What all of them take, and the one that is being written.
    taken: usize,
    /// Records dropped since that was last said.
    unsaid: u64,
    /// The writer has written all that there was, and waits.
    is_idle: bool,
}

impl Queue {
    /// Starts the thread. It calls `say` with the number of records that were dropped, once it can write again.
    pub(super) fn start(
        mut out: impl Write + Send + 'static,
        say: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::default());
        let writer = Arc::clone(&queue);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            IS_WRITER.set(true);
            run_again("writing the log", || writer.run(&mut out, &say));
        })?;
        Ok(queue)
    }

    /// Enters a record, which ends with its line end, or drops it when there is no room.
    pub(super) fn push(&self, record: &[u8]) {
        let record = cut(record);
        let capacity = if IS_WRITER.get() { CAPACITY + RESERVE } else { CAPACITY };
        let mut state = self.state();
        if state.taken + record.len() + OVERHEAD > capacity {
            state.unsaid += 1;
            drop(state);
            self.dropped.inc();
            return;
        }
        state.taken += record.len() + OVERHEAD;
        state.records.push_back(record);
        let is_idle = state.is_idle;
        drop(state);
        if is_idle {
            self.changed.notify_all();
        }
    }

    /// Waits until all is written, for so long at most.
    pub(super) fn flush(&self, limit: Duration) {
        let state = self.state();
        let is_busy = |state: &mut State| !(state.is_idle && state.records.is_empty());
        drop(self.changed.wait_timeout_while(state, limit, is_busy));
    }

    /// Records that were dropped since start.
    pub(super) fn dropped(&self) -> Counter {
        self.dropped.clone()
    }

    fn run(&self, out: &mut impl Write, say: &impl Fn(u64)) {
        {
            // But for a record that it had in its hands when it failed.
            let mut state = self.state();
            state.taken = state.records.iter().map(|record| record.len() + OVERHEAD).sum();
        }
        let mut said: Option<Instant> = None;
        loop {
            let record = self.next();
            let written = out.write_all(&record);
            let mut state = self.state();
            state.taken -= record.len() + OVERHEAD;
            if written.is_err() {
                state.unsaid += 1;
                drop(state);
                self.dropped.inc();
                continue;
            }
            let is_due = state.records.is_empty() || said.is_some_and(|at| at.elapsed() >= SAY_EVERY);
            if state.unsaid > 0 && is_due {
                let dropped = std::mem::take(&mut state.unsaid);
                drop(state);
                said = Some(Instant::now());
                say(dropped);
            } else if state.unsaid > 0 && said.is_none() {
                said = Some(Instant::now());
            }
        }
    }

    fn next(&self) -> Box<[u8]> {
        let mut state = self.state();
        loop {
            if let Some(record) = state.records.pop_front() {
                state.is_idle = false;
                return record;
            }
            state.is_idle = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record, cut between two characters if it is too long.
fn cut(record: &[u8]) -> Box<[u8]> {
    if record.len() <= RECORD_MAX {
        return record.into();
    }
    let mut end = RECORD_MAX - CUT.len();
    while end > 0 && record.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    [record.get(..end).unwrap_or_default(), CUT].concat().into()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const FULL: usize = CAPACITY / (100 + OVERHEAD);

    /// Writes once for each permission, to a list.
    struct Gate {
        permitted: Receiver<io::Result<()>>,
        written: Arc<Mutex<Vec<String>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Without a sender: open.
            let permitted = self.permitted.recv().unwrap_or(Ok(()));
            let is_defect = |error: &io::Error| error.kind() == io::ErrorKind::Unsupported;
            assert!(!permitted.as_ref().is_err_and(is_defect), "a defect of the writer");
            permitted?;
            self.written.lock().unwrap().push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Rig {
        queue: Arc<Queue>,
        permit: Sender<io::Result<()>>,
        written: Arc<Mutex<Vec<String>>>,
        said: Receiver<u64>,
    }

    fn rig() -> Rig {
        let (permit, permitted) = channel();
        let (say, said) = channel();
        let written = Arc::default();
        let gate = Gate { permitted, written: Arc::clone(&written) };
        let queue = Queue::start(gate, move |dropped| say.send(dropped).unwrap()).unwrap();
        Rig { queue, permit, written, said }
    }

    fn record(number: usize) -> String {
        format!("{number:099}\n")
    }

    #[test]
    fn nobody_waits_for_a_writer_that_is_stuck_and_what_is_dropped_is_counted_and_said() {
        let Rig { queue, permit, written, said } = rig();
        (0..FULL + 30).for_each(|number| queue.push(record(number).as_bytes()));
        assert_eq!(queue.dropped().get(), 30);
        assert!(queue.state().taken <= CAPACITY);
        let begun = Instant::now();
        queue.flush(Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(20), "what is stuck is not flushed");
        // The reader is back.
        drop(permit);
        assert_eq!(said.recv_timeout(PATIENCE), Ok(30));
        queue.flush(PATIENCE);
        let expected: Vec<String> = (0..FULL).map(record).collect();
        assert_eq!(*written.lock().unwrap(), expected, "the first ones, in their order");
        assert_eq!(queue.state().taken, 0);
        queue.push(b"one more\n");
        queue.flush(PATIENCE);
        assert_eq!(written.lock().unwrap().last().unwrap(), "one more\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_said_with_the_first_that_can() {
        let Rig { queue, permit, said, .. } = rig();
        for _ in 0..3 {
            permit.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
            queue.push(b"lost\n");
        }
        queue.flush(PATIENCE);
        assert_eq!(queue.dropped().get(), 3);
        assert!(said.try_recv().is_err(), "nothing can be said yet");
        drop(permit);
        queue.push(b"good\n");
        assert_eq!(said.recv_timeout(PATIENCE), Ok(3));
    }

    #[test]
    fn the_log_goes_on_after_a_panic_of_its_writer() {
        let Rig { queue, permit, written, .. } = rig();
        permit.send(Err(io::ErrorKind::Unsupported.into())).unwrap();
        drop(permit);
        queue.push(b"lost\n");
        queue.push(b"next\n");
        queue.flush(PATIENCE);
        assert_eq!(*written.lock().unwrap(), ["next\n"]);
        assert_eq!(queue.state().taken, 0);
    }

    #[test]
    fn a_long_record_is_cut_between_characters() {
        assert_eq!(*cut(b"short\n"), *b"short\n");
        let long = cut("\u{e9}".repeat(RECORD_MAX).as_bytes());
        assert!(long.len() <= RECORD_MAX && long.len() > RECORD_MAX - 16, "{}", long.len());
        assert!(std::str::from_utf8(&long).unwrap().ends_with("\u{e9}... (cut)\n"));
    }
}
