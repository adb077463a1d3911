//! The maps of the guard that the daemon has mapped. What is larger than a word has two places: one is written while the program
//! reads the other.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::Map;
use proxy_common::abi::guard as abi;
use proxy_common::guard::{Endpoint, Endpoints, Rate, Source, Table};

use super::{Setup, lock};
use crate::kernel::Unavailable;
use crate::kernel::object::missing;
use crate::sys::{self, SharedWords};

/// Indices of words of the settings ([`abi::Settings`]).
const GENERATION: usize = 0;
const LISTENERS: usize = 1;
const DRY_RUN: usize = 2;
const MASKS: usize = 3;
const RATES: usize = 5;

/// All of them.
pub(super) struct Words {
    settings: SharedWords,
    lists: SharedWords,
    listeners: SharedWords,
    /// Held while anything but a single word is changed.
    changing: Mutex<()>,
}

impl Words {
    pub(super) fn map(ebpf: &mut Ebpf) -> Result<Self, Unavailable> {
        let mut map = |name: &str, words: usize| {
            let Some(Map::Array(map)) = ebpf.take_map(name) else { return Err(missing(name)) };
            SharedWords::map(&map.fd(), words)
                .map_err(|error| Unavailable::explain("a BPF map of the guard cannot be mapped", &error))
        };
        Ok(Self {
            settings: map(abi::SETTINGS, abi::ALL_SETTING_WORDS)?,
            lists: map(abi::LISTS, 2 * abi::LIST_WORDS)?,
            listeners: map(abi::LISTENERS, 2 * abi::LISTENER_WORDS)?,
            changing: Mutex::new(()),
        })
    }

    pub(super) fn set_up(&self, setup: &Setup, masks: [u64; 2]) {
        set(&self.settings, DRY_RUN, u64::from(setup.dry_run));
        let rates = [setup.source, setup.ceiling, setup.reserve];
        let rates = rates.into_iter().flat_map(|Rate { interval_ns, slack_ns }| [interval_ns, slack_ns]);
        for (at, word) in (MASKS..).zip(masks).chain((RATES..).zip(rates)) {
            set(&self.settings, at, word);
        }
    }

    /// Writes `words` to the place that is not in use, and then has the program use that.
    fn swap(
        &self,
        memory: &SharedWords,
        size: usize,
        switch: usize,
        write: impl FnOnce(&dyn Fn(usize, u64)),
    ) {
        let next = 1 - get(&self.settings, switch).min(1);
        let start = if next == 0 { 0 } else { size };
        write(&|at, word| set(memory, start + at, word));
        set(&self.settings, switch, next);
        // Until no program reads the other place any more, which may be written to from then on.
        sys::wait_for_programs();
    }

    pub(super) fn set_lists(&self, table: &Table) {
        let _changing = lock(&self.changing);
        self.swap(&self.lists, abi::LIST_WORDS, GENERATION, |put| table.write(put));
    }

    pub(super) fn set_listeners(&self, table: &Endpoints, endpoints: &HashSet<Endpoint>) {
        let _changing = lock(&self.changing);
        self.swap(&self.listeners, abi::LISTENER_WORDS, LISTENERS, |put| {
            table.words().enumerate().for_each(|(at, word)| put(at, word));
        });
        let mut ports = vec![0; abi::PORT_WORDS];
        for endpoint in endpoints {
            if let Some(word) = ports.get_mut(usize::from(endpoint.port / 64)) {
                *word |= 1 << (endpoint.port % 64);
            }
        }
        for (at, word) in (abi::SETTING_WORDS..).zip(ports) {
            set(&self.settings, at, word);
        }
    }

    pub(super) fn set_sketch(&self, banned: impl Iterator<Item = Source>) {
        let _changing = lock(&self.changing);
        let mut sketch = vec![0; abi::SKETCH_WORDS];
        for source in banned {
            if let Some(word) = sketch.get_mut(source.bit() / 64) {
                *word |= 1 << (source.bit() % 64);
            }
        }
        for (at, word) in (abi::SETTING_WORDS + abi::PORT_WORDS..).zip(sketch) {
            set(&self.settings, at, word);
        }
    }
}

fn word(memory: &SharedWords, at: usize) -> Option<&AtomicU64> {
    memory.get::<1>(at).map(|[word]| word)
}

fn get(memory: &SharedWords, at: usize) -> u64 {
    word(memory, at).map_or(0, |word| word.load(Ordering::Acquire))
}

fn set(memory: &SharedWords, at: usize, value: u64) {
    if let Some(word) = word(memory, at) {
        word.store(value, Ordering::Release);
    }
}
