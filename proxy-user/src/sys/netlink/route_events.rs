//! When packets begin to go other ways: changes of routes, rules, addresses and interfaces (rtnetlink(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::message::{messages, number};
use super::socket::Reports;

/// Groups of messages (`include/uapi/linux/rtnetlink.h`): link, addresses, routes and rules of both families, next hops.
const GROUPS: [u32; 8] = [1, 5, 7, 8, 9, 11, 19, 32];

/// `RTM_DELLINK`.
const LINK_GONE: u16 = 17;

/// A socket that becomes readable when any of it changes.
#[derive(Debug)]
pub(crate) struct Moves(Reports);

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
        Reports::listen(GROUPS.into_iter().fold(0, |all, group| all | 1 << (group - 1))).map(Self)
    }

    /// Takes all messages. Only those about interfaces are read; for the rest, the caller asks the kernel anew.
    pub(crate) fn take(&self, news: &mut News) {
        self.0.take(|bytes| match bytes {
            Some(bytes) => news.gone.extend(gone(bytes)),
            None => news.lost = true,
        });
    }
}

/// The numbers of the interfaces that some messages report as gone.
fn gone(bytes: &[u8]) -> impl Iterator<Item = u32> {
    messages(bytes).filter(|message| message.kind == LINK_GONE).filter_map(|message| match message.body {
        [0, _, _, _, index @ ..] => number(index),
        // A family other than none: the interface has only left a bridge.
        _ => None,
    })
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

    use super::super::message::request;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = request(kind, 0, 0, body).unwrap();
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
        assert_eq!(gone(&messages.concat()).collect::<Vec<_>>(), [7, 10]);
    }

    #[test]
    fn noise_is_passed_over() {
        for noise in [&[][..], &[1; 3], &[0; 64], &message(LINK_GONE, &[0; 7])] {
            assert_eq!(gone(noise).next(), None, "{noise:?}");
        }
    }

    #[test]
    fn it_can_be_watched() {
        let mut news = News::default();
        Moves::watch().unwrap().take(&mut news);
    }
}
