//! The directions that the verdict and the daemon both have mapped: who has which, and what is in it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proxy_common::abi::credit::CEILING;
use proxy_common::abi::sockmap::{DIRECTION_WORDS, Direction, Place, Word};

use crate::sys::SharedWords;

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    memory: SharedWords,
    free: Mutex<Free>,
}

/// Slots that were in use come first, since their memory is warm.
#[derive(Debug)]
struct Free {
    returned: Vec<u32>,
    fresh: std::ops::Range<u32>,
    /// [`Direction::beside`] of all that were returned.
    beside: u64,
    /// The most that [`Direction::ceiling`] may be.
    ceiling: u64,
}

impl Slots {
    pub(super) fn new(memory: SharedWords, count: u32) -> Arc<Self> {
        Arc::new(Self {
            memory,
            free: Mutex::new(Free { returned: Vec::new(), fresh: 0..count, beside: 0, ceiling: CEILING }),
        })
    }

    /// Takes a slot for `direction`. `E2BIG`: there is none left.
    pub(super) fn claim(self: &Arc<Self>, direction: Direction) -> io::Result<Slot> {
        // Held until the slot is filled, so that a new ceiling reaches every direction.
        let mut free = self.free();
        let next = free.returned.pop().or_else(|| free.fresh.next());
        let number = next.ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))?;
        let direction = Direction { ceiling: direction.ceiling.min(free.ceiling), ..direction };
        let slot = Slot { slots: Arc::clone(self), number };
        let source = Word::Source as usize;
        for (index, value) in
            direction.to_words().into_iter().enumerate().filter(|(index, _)| *index != source)
        {
            slot.store(index, value);
        }
        slot.store(source, direction.source);
        Ok(slot)
    }

    /// The direction at `place`, if it is still there.
    pub(super) fn read(&self, place: Place) -> Option<Direction> {
        let words = self.words(place.slot)?;
        let source = words.get(Word::Source as usize)?;
        if source.load(Ordering::Acquire) != place.cookie {
            return None;
        }
        let direction = snapshot(words);
        fence(Ordering::Acquire);
        (source.load(Ordering::Relaxed) == place.cookie).then_some(direction)
    }

    /// Changes how much credit any direction may have, those that are there and those to come.
    pub(super) fn set_ceiling(&self, bytes: u64) {
        let mut free = self.free();
        free.ceiling = bytes;
        let slots = (0..free.fresh.start).filter_map(|number| self.words(number));
        for word in slots.filter_map(|words| words.get(Word::Ceiling as usize)) {
            word.store(bytes, Ordering::Relaxed);
        }
    }

    /// The most credit that any direction may have.
    pub(super) fn ceiling(&self) -> u64 {
        self.free().ceiling
    }

    /// The sum of [`Direction::beside`] over all directions that are or were.
    pub(super) fn beside(&self) -> u64 {
        let free = self.free();
        let live = (0..free.fresh.start).filter_map(|number| self.words(number));
        live.fold(free.beside, |sum, words| sum.wrapping_add(snapshot(words).beside))
    }

    fn words(&self, number: u32) -> Option<&[AtomicU64; DIRECTION_WORDS]> {
        self.memory.get(usize::try_from(number).ok()? * DIRECTION_WORDS)
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn snapshot(words: &[AtomicU64; DIRECTION_WORDS]) -> Direction {
    Direction::from_words(words.each_ref().map(|word| word.load(Ordering::Acquire)))
}

/// A slot in use. To be dropped after its socket is closed: only then has the verdict let go of it.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u32,
}

impl Slot {
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn read(&self) -> Direction {
        self.slots.words(self.number).map(snapshot).unwrap_or_default()
    }

    pub(super) fn set(&self, word: Word, value: u64) {
        self.store(word as usize, value);
    }

    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.slots.words(self.number).and_then(|words| words.get(index)) {
            word.store(value, Ordering::Release);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.set(Word::Source, 0);
        let mut free = self.slots.free();
        free.beside = free.beside.wrapping_add(self.read().beside);
        self.set(Word::Beside, 0);
        free.returned.push(self.number);
    }
}
