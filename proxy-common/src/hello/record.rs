//! The TLS record layer (RFC 8446 section 5.1), as far as a plaintext handshake needs it.

use super::Defect;

/// Length of a record header: type, version, length.
pub(super) const HEADER: usize = 5;

/// Content type of handshake records.
pub(super) const HANDSHAKE: u8 = 22;

/// Major version byte of every record from SSL 3.0 on. The minor one says nothing: clients write 0 to 4.
pub(super) const MAJOR: u8 = 3;

/// The most content of one plaintext record.
const MAX_LEN: usize = 1 << 14;

/// One handshake record.
pub(super) struct Record<'a> {
    /// As much of the content as is there.
    pub(super) present: &'a [u8],
    /// Length of the whole content; not 0.
    pub(super) len: usize,
}

/// The record at the start of `bytes`, or None while its header is not whole.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Record<'_>>, Defect> {
    let Some((&[kind, major, _minor, high, low], content)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    match (kind, major, len) {
        (HANDSHAKE, MAJOR, 1..=MAX_LEN) => {
            Ok(Some(Record { present: content.get(..len).unwrap_or(content), len }))
        }
        (HANDSHAKE, MAJOR, 0) => Err(Defect::EmptyRecord),
        (HANDSHAKE, MAJOR, _) => Err(Defect::RecordLength),
        (HANDSHAKE, _, _) => Err(Defect::RecordVersion),
        _ => Err(Defect::RecordType),
    }
}

/// The least that `content` bytes take on the wire when they start in a new record.
pub(super) const fn wire_len(content: usize) -> usize {
    content + HEADER * content.div_ceil(MAX_LEN)
}

/// The contents of the records in a stream, up to the first that is not a handshake record.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let record = read(self.rest).ok().flatten()?;
        self.rest = self.rest.get(HEADER + record.len..).unwrap_or_default();
        Some(record.present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_only_when_it_is_whole() {
        assert!(matches!(read(&[22, 3, 1, 0]), Ok(None)));
        let Ok(Some(record)) = read(&[22, 3, 1, 0, 2, 9]) else {
            panic!("a record with half of its content")
        };
        assert_eq!((record.present, record.len), (&[9][..], 2));
    }

    #[test]
    fn every_field_of_the_header_is_checked() {
        let defect = |bytes: &[u8]| read(bytes).err();
        assert_eq!(defect(&[21, 3, 1, 0, 2]), Some(Defect::RecordType));
        assert_eq!(defect(&[22, 2, 1, 0, 2]), Some(Defect::RecordVersion));
        assert_eq!(defect(&[22, 3, 1, 0, 0]), Some(Defect::EmptyRecord));
        assert_eq!(defect(&[22, 3, 1, 0x40, 1]), Some(Defect::RecordLength));
        assert_eq!(defect(&[22, 3, 9, 0x40, 0]), None);
    }

    #[test]
    fn wire_length_counts_a_header_for_each_full_record() {
        assert_eq!(wire_len(0), 0);
        assert_eq!(wire_len(1), 6);
        assert_eq!(wire_len(MAX_LEN), MAX_LEN + 5);
        assert_eq!(wire_len(MAX_LEN + 1), MAX_LEN + 11);
    }
}
