//! `[guard]`.

use std::path::Path;
use std::time::Duration;

use super::parse;
use super::{LISTEN, ROUTE, UPSTREAM, assert_section_error};
use crate::hub::snapshot::Guard;

fn guard(keys: &str) -> Guard {
    match parse(&format!("{LISTEN}{ROUTE}{UPSTREAM}[guard]\n{keys}\n"), "test.toml") {
        Ok(loaded) => loaded.snapshot.guard.unwrap(),
        Err(errors) => panic!("{errors}"),
    }
}

#[test]
fn without_the_section_there_is_no_guard() {
    let loaded = parse(&format!("{LISTEN}{ROUTE}{UPSTREAM}"), "test.toml").unwrap();
    assert!(loaded.snapshot.guard.is_none());
}

/// As docs/config.md has them.
#[test]
fn what_is_left_out_has_a_default() {
    let guard = guard("interfaces = 'eth0'");
    assert_eq!(guard.interfaces, ["eth0".into()]);
    assert_eq!((guard.native, guard.dry_run), (None, false));
    assert!(guard.allow.is_empty() && guard.deny.is_empty());
    assert_eq!((guard.deny_file, guard.pin, guard.protect), (None, None, None));
    let numbers = [guard.syn_rate, guard.syn_burst, guard.syn_ceiling, guard.syn_reserve, guard.sources];
    assert_eq!(numbers, [200, 400, 0, 20, 65_536]);
    assert_eq!(guard.source_bits, [32, 64]);
    let bans = guard.bans;
    assert_eq!((bans.threshold, bans.limit), (0, 10_000));
    assert_eq!((bans.window, bans.time), (Duration::from_secs(60), Duration::from_secs(600)));
}

#[test]
fn every_key_arrives() {
    let guard = guard(
        "interfaces = ['eth0', 'bond0.7']\nmode = 'generic'\ndry_run = true\nallow = '10.0.0.0/8'\n\
         deny = ['::1', '192.0.2.0/24']\ndeny_file = '/a/b'\nsyn_rate = 1\nsyn_burst = 2\nsyn_ceiling = 0x30\n\
         syn_reserve = 4\nsource_v4 = 24\nsource_v6 = 48\nsources = 2_048\nban_after = 5\nban_window = '6s'\n\
         ban_time = '7s'\nban_limit = 8\nprotect = 'web'\npin = '/sys/fs/bpf/x'",
    );
    assert_eq!(guard.interfaces, ["eth0".into(), "bond0.7".into()]);
    assert_eq!((guard.native, guard.dry_run), (Some(false), true));
    let nets = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        (nets(&guard.allow), nets(&guard.deny)),
        (vec!["10.0.0.0/8".to_owned()], vec!["::1/128".to_owned(), "192.0.2.0/24".to_owned()])
    );
    assert_eq!(guard.deny_file.as_deref(), Some(Path::new("/a/b")));
    let numbers = [guard.syn_rate, guard.syn_burst, guard.syn_ceiling, guard.syn_reserve, guard.sources];
    assert_eq!(numbers, [1, 2, 48, 4, 2048]);
    assert_eq!(guard.source_bits, [24, 48]);
    assert_eq!((guard.bans.threshold, guard.bans.limit), (5, 8));
    assert_eq!((guard.bans.window.as_secs(), guard.bans.time.as_secs()), (6, 7));
    assert!(guard.protects("web") && !guard.protects("other"));
    assert_eq!(guard.pin.as_deref(), Some(Path::new("/sys/fs/bpf/x")));
}

#[test]
fn mistakes_are_named_where_they_are() {
    let wrong = |keys: &str, expected: &str| {
        assert_section_error(&format!("[guard]\ninterfaces = 'eth0'\n{keys}"), expected);
    };
    assert_section_error("§[guard]", "this [guard] has no 'interfaces'; add interfaces = [\"eth0\"]");
    assert_section_error("[guard]\ninterfaces = ['a', §'a']", "\"a\" is there twice; remove one of the two");
    assert_section_error(
        "[guard]\ninterfaces = §'eth0/1'",
        "\"eth0/1\" is not the name of an interface; write one that `ip link` shows, such as \"eth0\"",
    );
    wrong("mode = §'fast'", "\"fast\" is not a mode; write \"auto\", \"native\" or \"generic\"");
    wrong("syn_rate = §-1", "-1 is too small; write 0 to 100000000");
    wrong("syn_reserve = §91", "91 is too large; write 0 to 90");
    wrong("sources = §99999999999999999999", "9223372036854775807 is too large; write 1024 to 4194304");
    wrong("source_v6 = §'64'", "'source_v6' must be a whole number, not a string; write source_v6 = 64");
    wrong("deny_file = §'deny.txt'", "\"deny.txt\" is not an absolute path; write one that begins with '/'");
    wrong(
        "deny = §'10.1.2.3/8'",
        "\"10.1.2.3/8\" has bits set beyond its prefix; write \"10.0.0.0/8\" for the range or \"10.1.2.3\" for the one \
         address",
    );
    wrong("protect = [§'wb']", "unknown upstream \"wb\"; did you mean \"web\"? There are \"web\"");
    wrong(
        "ban_time = §5",
        "'ban_time' is a number without a unit; write it as a string with ms, s, m or h, such as \"5s\"",
    );
}
