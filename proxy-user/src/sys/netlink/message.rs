//! The bytes of netlink messages and of their attributes (`include/uapi/linux/netlink.h`): building and reading them.
//!
//! Reading never fails: of bytes that are cut off or make no sense, only the messages and attributes in front of them are found.

use std::io;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Kinds of messages of all protocols: `NLMSG_ERROR`, which also says that a request was carried out, and `NLMSG_DONE`, which ends a
/// list.
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;

/// Flags of a request: `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, and `NLM_F_CREATE | NLM_F_EXCL`.
const REQUEST: u16 = 1;
pub(super) const ACKNOWLEDGE: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400 | 0x200;

/// Marks an attribute that consists of attributes (`NLA_F_NESTED`).
pub(super) const NESTED: u16 = 1 << 15;

/// A message from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    /// The number of the request that it answers.
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    /// What a message of kind [`ERROR`] says.
    pub(super) fn outcome(&self) -> io::Result<()> {
        match self.body.first_chunk().copied().map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The bytes of a request. The header's last field, the sender, stays 0: the kernel fills it in.
pub(super) fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    Ok(bytes)
}

/// The messages in the bytes of one read. Of a message that the read has cut off, the body has what is there.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes)?).ok()?;
        let kind = bytes.get(4..)?.first_chunk().copied().map(u16::from_ne_bytes)?;
        let sequence = number(bytes.get(8..)?)?;
        let body = bytes.get(HEADER..length.min(bytes.len()))?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, body })
    })
}

/// An attribute with this value, and zeros up to a multiple of 4 bytes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(0);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of this kind.
pub(super) fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    loop {
        let (length, behind) = rest.split_first_chunk()?;
        let (kind, _) = behind.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes(*kind) == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// The number in the first 4 bytes.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_built_is_read_back() {
        let (first, second) = (request(7, DUMP, 1, b"odd").unwrap(), request(8, 0, 2, &[]).unwrap());
        assert_eq!(first.get(4..8), Some(&[7, 0, 1, 3][..]));
        let mut bytes = first;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(second);
        let read: Vec<_> = messages(&bytes).collect();
        let expected =
            [Message { kind: 7, sequence: 1, body: b"odd" }, Message { kind: 8, sequence: 2, body: &[] }];
        assert_eq!(read, expected);
    }

    #[test]
    fn attributes_are_found_behind_others() {
        let attributes = [attribute(7, b"a"), attribute(8, b"four")].concat();
        assert_eq!(find(&attributes, 8), Some(&b"four"[..]));
        assert_eq!(find(&attributes, 9), None);
        assert_eq!(find(&[1, 0, 0, 0], 9), None, "an attribute that is shorter than its head");
    }

    #[test]
    fn an_error_has_the_code_of_the_kernel() {
        let said = |body: &[u8]| Message { kind: ERROR, sequence: 0, body }.outcome();
        said(&[0; 4]).unwrap();
        assert_eq!(said(&(-2_i32).to_ne_bytes()).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(said(&[0; 3]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(said(&i32::MIN.to_ne_bytes()).is_err());
    }

    #[test]
    fn a_message_needs_a_whole_header() {
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(messages(&[16, 0, 0, 0, 44]).count(), 0);
        // A length below that of the header would never come to an end.
        assert_eq!(messages(&[0; 64]).count(), 0);
    }

    #[test]
    fn a_message_that_is_cut_off_has_the_bytes_that_are_there() {
        let whole = request(7, 0, 1, b"long").unwrap();
        let read: Vec<_> = messages(whole.get(..18).unwrap()).collect();
        assert_eq!(read, [Message { kind: 7, sequence: 1, body: b"lo" }]);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(prop_oneof![0..40_u8, any::<u8>()], 0..200), kind: u16) {
            for message in messages(&bytes) {
                let _ = (message.outcome(), find(message.body, kind));
            }
            let _ = find(&bytes, kind);
        }
    }
}
