//! What holds for every stream: asserted by the other modules on theirs.

use super::usual::{MAX_PEEK, inspect};
use proxy_common::hello::Verdict;

/// The most looks that a caller takes who follows `need`.
pub const MAX_LOOKS: usize = 50;

/// Looks at prefixes of `stream` that grow by `step` bytes: the verdict stays once it is there, and `need`
/// keeps its bounds and never shrinks. Returns the verdict on the whole.
pub fn stable(stream: &[u8], step: usize) -> Verdict {
    let last = inspect(stream);
    let mut decided = None;
    let mut least = 0;
    for len in (0..stream.len()).step_by(step) {
        match inspect(&stream[..len]) {
            Verdict::Incomplete { need } => {
                assert_eq!(decided, None, "undecided again at {len}");
                assert!(need > len && need <= MAX_PEEK, "need {need} at {len}");
                assert!(need >= least, "need {need} at {len} after {least}");
                if matches!(last, Verdict::Hello(_)) {
                    assert!(need <= stream.len(), "need {need} at {len} of {}", stream.len());
                }
                least = need;
            }
            verdict => {
                assert_eq!(verdict, last, "at {len} of {}", stream.len());
                decided = Some(len);
            }
        }
    }
    last
}

/// `stream` is exactly one hello: all of it is needed, and then gives `expected` whatever follows.
pub fn exactly(stream: &[u8], expected: &Verdict, step: usize) {
    assert_eq!(stable(stream, step), *expected);
    let one_less = inspect(&stream[..stream.len() - 1]);
    assert_eq!(one_less, Verdict::Incomplete { need: stream.len() }, "one byte is missing");
    for more in [&b"\x16\x03\x01"[..], b"\x17\x03\x03\x00\x01\x00", b"GET / HTTP/1.1\r\n", &[0xff; 4096]] {
        assert_eq!(inspect(&[stream, more].concat()), *expected);
    }
}

/// Looks as a caller does that sleeps until `need` bytes are there. Returns how often it looked, and the last
/// verdict: `Incomplete` if the stream ended first.
pub fn follow(stream: &[u8]) -> (usize, Verdict) {
    let mut len = 0;
    for looks in 1.. {
        match inspect(&stream[..len]) {
            Verdict::Incomplete { need } if need <= stream.len() => {
                assert!(need > len, "looked twice at {len} bytes");
                len = need;
            }
            verdict => return (looks, verdict),
        }
    }
    unreachable!("the loop has no other end");
}
