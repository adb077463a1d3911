//! A stream of any bytes: what is said of it stays when more of it arrives, and is found in a bounded number of looks.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_common::hello::{MaxHello, Sni, Verdict};

/// The most looks that a caller takes who sleeps until as many bytes are there as it was told.
const MAX_LOOKS: usize = 50;

fuzz_target!(|stream: &[u8]| {
    for max in [MaxHello::MIN, MaxHello::DEFAULT, MaxHello::MAX] {
        look(stream, max);
    }
});

fn look(stream: &[u8], max: MaxHello) {
    let inspect = |bytes: &[u8]| proxy_common::hello::inspect(bytes, max);
    let last = inspect(stream);
    let mut len = 0;
    for looks in 1.. {
        assert!(looks <= MAX_LOOKS, "{looks} looks");
        let Some(begun) = stream.get(..len) else { break };
        match inspect(begun) {
            Verdict::Incomplete { need } => {
                assert!(need > len && need <= max.peek(), "{need} after {len}");
                len = need;
            }
            verdict => {
                assert_eq!(verdict, last, "at {len}");
                break;
            }
        }
    }
    // And at any other place, which the stream itself names.
    let anywhere =
        stream.iter().fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let begun = stream.get(..anywhere % (stream.len() + 1)).unwrap_or_default();
    let sooner = inspect(begun);
    assert!(matches!(sooner, Verdict::Incomplete { .. }) || sooner == last, "{sooner:?}, then {last:?}");
    if let Verdict::Hello(hello) = last
        && let Sni::Name(name) = hello.sni
    {
        let again = proxy_common::hello::HostName::parse(name.as_str());
        assert_eq!(again.as_ref(), Ok(&name), "a name is not its own name");
    }
}
