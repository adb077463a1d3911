//! Maps of the daemon whose keys and values are words: what is in them, and putting something in.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::sys::{BpfMap, address, address_of_room, bpf_object};

/// A map of words.
#[derive(Debug)]
pub struct WordMap {
    map: BpfMap,
    key_words: usize,
    value_words: usize,
}

impl WordMap {
    /// Opens one that is pinned somewhere. Keys and values must have as many words.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn open(path: &Path, key_words: usize, value_words: usize) -> io::Result<Self> {
        /// The part of `union bpf_attr` that BPF_OBJ_GET needs.
        #[repr(C)]
        struct Get {
            path: u64,
            fd: u32,
            flags: u32,
        }
        let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let mut get = Get { path: address(path.as_bytes_with_nul()), fd: 0, flags: 0 };
        let map = BpfMap { fd: bpf_object(7, &mut get)?, key_size: key_words * 4 };
        Ok(Self { map, key_words, value_words })
    }

    /// Takes one that is open.
    pub fn of(map: BpfMap, value_words: usize) -> Self {
        let key_words = map.key_size / 4;
        Self { map, key_words, value_words }
    }

    /// How many elements it has now.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn count(&self) -> io::Result<usize> {
        self.map.keys().map(|keys| keys.len())
    }

    /// The keys that it has now.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn keys(&self) -> io::Result<Vec<Vec<u32>>> {
        let words = |key: &Vec<u8>| {
            key.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect::<Vec<u32>>()
        };
        Ok(self.map.keys()?.iter().map(words).collect())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn get(&self, key: &[u32]) -> io::Result<Vec<u32>> {
        let mut value = vec![0; self.value_words];
        self.map.element(1, address(self.checked(key, self.key_words)?), address_of_room(&mut value), 0)?;
        Ok(value)
    }

    /// Puts an element in.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn put(&self, key: &[u32], value: &[u32]) -> io::Result<()> {
        let key = address(self.checked(key, self.key_words)?);
        self.map.element(2, key, address(self.checked(value, self.value_words)?), 0)
    }

    /// Takes an element out.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn remove(&self, key: &[u32]) -> io::Result<()> {
        self.map.element(3, address(self.checked(key, self.key_words)?), 0, 0)
    }

    /// The kernel reads as many bytes as the map's elements have.
    fn checked<'a>(&self, words: &'a [u32], wanted: usize) -> io::Result<&'a [u32]> {
        if words.len() == wanted { Ok(words) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}
