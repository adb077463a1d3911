//! The bytes of one direction: a hello, perhaps, and then keyed data.

use anyhow::{Result, ensure};

use crate::keyed::Keyed;

/// A place in the bytes of one direction.
#[derive(Debug, Clone)]
pub(super) struct Course {
    hello: Vec<u8>,
    /// How much of the hello is behind.
    at: usize,
    keyed: Keyed,
}

impl Course {
    pub(super) fn new(hello: Vec<u8>, stream: u64) -> Self {
        Self { hello, at: 0, keyed: Keyed::new(stream) }
    }

    /// Writes the next bytes into `buffer`.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        let (head, rest) = buffer.split_at_mut(self.of_hello(buffer.len()));
        head.copy_from_slice(self.hello.get(self.at..self.at + head.len()).unwrap_or_default());
        self.at += head.len();
        self.keyed.fill(rest);
    }

    /// Compares `found` with the next bytes.
    ///
    /// # Errors
    /// At the first byte that differs.
    pub(super) fn check(&mut self, found: &[u8]) -> Result<()> {
        let (head, rest) = found.split_at(self.of_hello(found.len()));
        let expected = self.hello.get(self.at..self.at + head.len()).unwrap_or_default();
        ensure!(head == expected, "another hello than was sent, at byte {}", self.at);
        self.at += head.len();
        self.keyed.check(rest)
    }

    fn of_hello(&self, bytes: usize) -> usize {
        bytes.min(self.hello.len() - self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hello_comes_first_however_it_is_cut() {
        let course = || Course::new(b"hello".to_vec(), 3);
        let mut bytes = vec![0; 40];
        course().fill(&mut bytes);
        assert!(bytes.starts_with(b"hello"));
        for piece in 1..40 {
            let mut checked = course();
            bytes.chunks(piece).try_for_each(|part| checked.check(part)).unwrap();
        }
        assert!(course().check(b"hullo").is_err());
    }
}
