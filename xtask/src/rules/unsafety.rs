//! `unsafe` lives in few places, where it is read with care.

use super::Finding;
use super::source::Source;

/// Where it may be. Clippy sees to it that each block says why it is sound.
const ALLOWED: [&str; 5] = [
    "proxy-user/src/sys/",
    "proxy-ebpf/",
    "proxy-common/src/abi/",
    "tests/src/netns/sys.rs",
    "tests/src/wire/sys.rs",
];

/// Finds `unsafe` elsewhere.
pub(crate) fn check(source: &Source<'_>) -> Vec<Finding> {
    if ALLOWED.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let unsafe_tokens = source.tokens.iter().filter(|token| token.ident() == Some("unsafe"));
    unsafe_tokens
        .map(|token| Finding::new(source.path, token.line, format!("unsafe outside {}", ALLOWED.join(", "))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(&Source::parse(path, text).unwrap()).len()
    }

    #[test]
    fn unsafe_is_found_outside_its_modules() {
        let text = "unsafe fn f() {}\nfn g() { unsafe { f() } }\nunsafe impl Send for X {}\n#[unsafe(no_mangle)] fn h() {}";
        assert_eq!(count("proxy-user/src/front/conn.rs", text), 4);
        assert_eq!(count("tests/src/netns/mod.rs", text), 4);
        for place in ["proxy-user/src/sys/tcp.rs", "proxy-ebpf/src/sockmap.rs", "proxy-common/src/abi/mod.rs"]
        {
            assert_eq!(count(place, text), 0);
        }
    }

    #[test]
    fn the_word_alone_is_fine() {
        let text = "#![deny(unsafe_code)]\n// unsafe\nconst A: &str = \"unsafe { }\";";
        assert_eq!(count("xtask/src/main.rs", text), 0);
    }
}
