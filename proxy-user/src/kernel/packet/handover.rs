//! One flow on its way out of its sockets.

use std::io;

use aya::maps::MapError;
use proxy_common::abi::packet::{Answer, Command, Entry, HANDOVER_WORDS, Handover, Key, Socket, state};

use super::{BusyGuard, Packet, into_io, lock};

/// A flow whose packets are looked at. Unless it was settled, dropping this leaves it to its sockets.
pub(crate) struct Armed<'a> {
    packet: &'a Packet,
    number: u32,
    keys: [Key; 2],
    has_entries: bool,
    settled: bool,
    _busy: BusyGuard<'a>,
}

impl Packet {
    /// Begins a hand-over of the flow with these keys, the client's first. Nothing becomes of its packets yet.
    pub(crate) fn begin(&self, keys: [Key; 2]) -> io::Result<Armed<'_>> {
        let _busy = self.be_busy()?;
        let mut handovers = lock(&self.handovers);
        let number = {
            let mut busy = lock(&self.busy);
            // 0 is none.
            busy.next = busy.next.checked_add(1).unwrap_or(1);
            busy.next
        };
        let fresh = Handover { keys, ..Handover::default() };
        handovers.insert(number, with_lock(&fresh), 0).map_err(into_io)?;
        drop(handovers);
        Ok(Armed { packet: self, number, keys, has_entries: false, settled: false, _busy })
    }
}

fn with_lock(handover: &Handover) -> [u32; HANDOVER_WORDS + 1] {
    let mut locked = [0; HANDOVER_WORDS + 1];
    for (word, value) in locked.iter_mut().skip(1).zip(handover.to_words()) {
        *word = value;
    }
    locked
}

impl Armed<'_> {
    /// What the kernel knows of the two sockets now.
    pub(crate) fn look(&self) -> io::Result<Result<[Socket; 2], Answer>> {
        Ok(match self.run(Command::Look)? {
            Answer::Done => Ok(self.read()?.sockets),
            answer => Err(answer),
        })
    }

    /// From now on packets with the keys are watched on their way to the sockets. `delta` and the entries that belong to it.
    pub(crate) fn arm(&mut self, delta: [u32; 2], entries: [Entry; 2]) -> io::Result<()> {
        let fresh = Handover { keys: self.keys, delta, ..Handover::default() };
        lock(&self.packet.handovers).insert(self.number, with_lock(&fresh), 0).map_err(into_io)?;
        self.has_entries = true;
        let [_, server] = &self.keys;
        self.packet.cover(server)?;
        for (key, entry) in self.keys.iter().zip(entries) {
            let entry = Entry { state: state::ARMED, handover: self.number, ..entry };
            self.packet.put(key, &entry)?;
        }
        Ok(())
    }

    /// Lets packets go past the sockets, if nothing stands against it.
    pub(crate) fn flip(&self) -> io::Result<Answer> {
        self.run(Command::Flip)
    }

    /// How it stands.
    pub(crate) fn read(&self) -> io::Result<Handover> {
        match lock(&self.packet.handovers).get(&self.number, 0) {
            Ok(words) => {
                let (_, words) = words.split_first().unwrap_or((&0, &[]));
                words.first_chunk().map(Handover::from_words).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
            Err(MapError::KeyNotFound) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(into_io(error)),
        }
    }

    /// From now on the entries are all that is needed.
    pub(crate) fn settle(&mut self) -> io::Result<Answer> {
        // The clocks of the sockets. One that has failed sends nothing any more.
        self.run(Command::Look)?;
        let answer = self.run(Command::Settle)?;
        self.settled = answer == Answer::Done;
        Ok(answer)
    }

    /// Whether a socket has taken bytes since the flip, which nobody will read: of a packet whose first fragment came before the hand-over.
    pub(crate) fn have_sockets_moved(&self) -> io::Result<bool> {
        self.run(Command::Look)?;
        let Handover { sockets, received, .. } = self.read()?;
        Ok(sockets.iter().zip(received).any(|(socket, frozen)| socket.rcv_nxt != frozen))
    }

    fn run(&self, command: Command) -> io::Result<Answer> {
        self.packet.run(command, self.number).map(Answer::from_code)
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        if self.has_entries && !self.settled {
            self.packet.forget(&self.keys);
        }
        let _ = lock(&self.packet.handovers).remove(&self.number);
    }
}
