//! Where a field of a kernel structure is: enough of BTF to read `/sys/kernel/btf/vmlinux`
//! (Documentation/bpf/btf.rst). Programs in C relocate themselves (CO-RE); those in Rust are told.

/// Byte offset of `field`, a direct member of `struct name` that is no bit field, or None if the data has none or is
/// malformed. Reads each byte at most once and allocates nothing.
#[must_use]
pub fn field_offset(btf: &[u8], name: &str, field: &str) -> Option<u32> {
    let header = Header::read(btf)?;
    let types = part(btf, header.len, header.type_offset, header.type_len)?;
    let strings = part(btf, header.len, header.string_offset, header.string_len)?;
    let mut rest = types;
    while !rest.is_empty() {
        let (name_at, rest_) = take_u32(rest)?;
        let (info, rest_) = take_u32(rest_)?;
        let (_size, rest_) = take_u32(rest_)?;
        let (kind, count, bit_fields) = ((info >> 24) & 0x1f, info & 0xffff, info >> 31 == 1);
        let tail = rest_.get(..tail_len(kind, count)?)?;
        rest = rest_.get(tail.len()..)?;
        if kind == STRUCT && text(strings, name_at) == Some(name.as_bytes()) {
            return member(tail, strings, field, bit_fields);
        }
    }
    None
}

const MAGIC: u32 = 0xeb9f;
const STRUCT: u32 = 4;

struct Header {
    len: u32,
    type_offset: u32,
    type_len: u32,
    string_offset: u32,
    string_len: u32,
}

impl Header {
    fn read(btf: &[u8]) -> Option<Self> {
        let (start, rest) = take_u32(btf)?;
        let (len, rest) = take_u32(rest)?;
        let (type_offset, rest) = take_u32(rest)?;
        let (type_len, rest) = take_u32(rest)?;
        let (string_offset, rest) = take_u32(rest)?;
        let (string_len, _) = take_u32(rest)?;
        // Magic, version 1, flags.
        (start & 0xff_ffff == MAGIC | 1 << 16).then_some(Self {
            len,
            type_offset,
            type_len,
            string_offset,
            string_len,
        })
    }
}

/// Bytes behind the common part of a type.
fn tail_len(kind: u32, count: u32) -> Option<usize> {
    let each = match kind {
        // int, variable, declaration tag
        1 | 14 | 17 => return Some(4),
        // array
        3 => return Some(12),
        // struct, union, data section, 64-bit enumeration
        STRUCT | 5 | 15 | 19 => 12,
        // enumeration, function prototype
        6 | 13 => 8,
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    };
    usize::try_from(count).ok()?.checked_mul(each)
}

fn member(mut members: &[u8], strings: &[u8], field: &str, bit_fields: bool) -> Option<u32> {
    while !members.is_empty() {
        let (name_at, rest) = take_u32(members)?;
        let (_type, rest) = take_u32(rest)?;
        let (position, rest) = take_u32(rest)?;
        members = rest;
        if text(strings, name_at) == Some(field.as_bytes()) {
            // With bit fields in the structure, the upper 8 bits are the width of this one, 0 for a plain member.
            let (bits, width) =
                if bit_fields { (position & 0xff_ffff, position >> 24) } else { (position, 0) };
            return (width == 0 && bits.is_multiple_of(8)).then_some(bits / 8);
        }
    }
    None
}

fn text(strings: &[u8], at: u32) -> Option<&[u8]> {
    strings.get(usize::try_from(at).ok()?..)?.split(|&byte| byte == 0).next()
}

fn part(btf: &[u8], header: u32, offset: u32, len: u32) -> Option<&[u8]> {
    let start = usize::try_from(header.checked_add(offset)?).ok()?;
    btf.get(start..start.checked_add(usize::try_from(len).ok()?)?)
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    Some((u32::from_ne_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An int, then two structures; the second has bit fields.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0a\0b\0plain\0packed\0";
        let (int, a, b, plain, packed) = (1, 5, 7, 9, 15);
        let types: Vec<u32> = [
            vec![int, 1 << 24, 4, 32],
            vec![plain, STRUCT << 24 | 2, 8, a, 1, 0, b, 1, 32],
            vec![packed, 1 << 31 | STRUCT << 24 | 2, 8, a, 1, 3 << 24 | 8, b, 1, 16],
        ]
        .concat();
        let type_len = u32::try_from(types.len() * 4).unwrap();
        let header = [MAGIC | 1 << 16, 24, 0, type_len, type_len, u32::try_from(strings.len()).unwrap()];
        let words = header.into_iter().chain(types).flat_map(u32::to_ne_bytes);
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn members_are_found_where_they_are() {
        let btf = sample();
        assert_eq!(field_offset(&btf, "plain", "a"), Some(0));
        assert_eq!(field_offset(&btf, "plain", "b"), Some(4));
        assert_eq!(field_offset(&btf, "packed", "b"), Some(2));
        assert_eq!(field_offset(&btf, "packed", "a"), None, "a bit field has no byte offset");
        assert_eq!(field_offset(&btf, "plain", "c"), None);
        assert_eq!(field_offset(&btf, "absent", "a"), None);
    }

    #[test]
    fn truncated_data_is_none_or_right() {
        let btf = sample();
        for len in 0..btf.len() {
            assert_eq!(field_offset(&btf[..len], "plain", "b"), None, "at {len}");
        }
    }

    proptest! {
        #[test]
        fn damaged_data_never_panics(at in 0_usize..150, byte: u8, noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut btf = sample();
            let at = at % btf.len();
            btf[at] = byte;
            let _ = field_offset(&btf, "packed", "b");
            let _ = field_offset(&noise, "plain", "a");
        }
    }
}
