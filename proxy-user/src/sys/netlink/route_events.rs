//! When packets begin to go other ways: changes of routes, rules, addresses and interfaces (rtnetlink(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::sys::Changes;

/// Groups of messages (`include/uapi/linux/rtnetlink.h`): link, addresses, routes and rules of both families, next hops.
const GROUPS: [u32; 8] = [1, 5, 7, 8, 9, 11, 19, 32];

/// `RTM_DELLINK`.
const LINK_GONE: u16 = 17;
/// Bytes in front of a message, and of it up to the end of its interface's number.
const HEADER: usize = 16;
const LINK_HEAD: usize = 8;

/// A socket that becomes readable when any of it changes.
#[derive(Debug)]
pub(crate) struct Moves(Changes);

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Numbers of interfaces that have gone. Another one may have the same number by now.
    pub(crate) gone: Vec<u32>,
    /// Some messages were lost: any interface may have gone.
    pub(crate) lost: bool,
}

impl Moves {
    /// In the network namespace of this thread.
    pub(crate) fn watch() -> io::Result<Self> {
        Changes::of(GROUPS.into_iter().fold(0, |all, group| all | 1 << (group - 1))).map(Self)
    }

    /// Takes all messages. Of those that are not about interfaces it does not matter what they say: the kernel is asked anew.
    pub(crate) fn take(&self, news: &mut News) {
        self.0.read(|messages| match messages {
            Some(messages) => gone(messages, &mut news.gone),
            None => news.lost = true,
        });
    }
}

fn gone(mut messages: &[u8], found: &mut Vec<u32>) {
    while let Some((length, kind)) = head(messages) {
        // A family other than none: it has only left a bridge.
        if kind == LINK_GONE
            && length >= HEADER + LINK_HEAD
            && let Some([0, _, _, _, index @ ..]) = messages.get(HEADER..HEADER + LINK_HEAD)
        {
            found.extend(index.first_chunk().copied().map(u32::from_ne_bytes));
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Length and kind of the first message.
fn head(messages: &[u8]) -> Option<(usize, u16)> {
    let (length, rest) = messages.split_first_chunk()?;
    let kind = rest.first_chunk().copied().map(u16::from_ne_bytes)?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    (length >= HEADER).then_some((length, kind))
}

impl AsFd for Moves {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Moves {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(HEADER, 0);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn interfaces_that_have_gone_are_found_among_all_that_changes() {
        let link = |family, number: u32| [[family, 0, 1, 0], number.to_ne_bytes(), [0; 4], [0; 4]].concat();
        let messages = [
            message(24, b"a route"),
            message(LINK_GONE, &link(0, 7)),
            message(LINK_GONE, &link(7, 8)),
            message(16, &link(0, 9)),
            message(LINK_GONE, &link(0, 10)),
        ];
        let mut found = Vec::new();
        gone(&messages.concat(), &mut found);
        assert_eq!(found, [7, 10]);
    }

    #[test]
    fn noise_is_passed_over() {
        let mut found = Vec::new();
        for noise in [&[][..], &[1; 3], &[0; 64], &[255; 64], &message(LINK_GONE, &[0; 7])] {
            gone(noise, &mut found);
        }
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn it_can_be_watched() {
        let mut news = News::default();
        Moves::watch().unwrap().take(&mut news);
    }
}
