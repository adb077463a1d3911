//! Errors between entries, and many errors in one file.

use super::{LISTEN, ROUTE, UPSTREAM, assert_errors, errors_of, unmark};

#[test]
fn names_are_unique_in_their_section() {
    assert_errors(
        &format!(
            "{LISTEN}[[listen]]\nname = §'tls'\naddress = '[::]:444'\n{ROUTE}[[route]]\nname = §'web'\n\
             sni = 'a.b'\nto = 'web'\n{UPSTREAM}[[upstream]]\nname = §'web'\nservers = 'a:1'\n"
        ),
        &[
            "the listener \"tls\" is already at line 2, column 8; give one of the two another name",
            "the route \"web\" is already at line 8, column 8; give one of the two another name",
            "the upstream \"web\" is already at line 16, column 8; give one of the two another name",
        ],
    );
}

#[test]
fn an_address_is_listened_on_once() {
    assert_errors(
        &format!("{LISTEN}[[listen]]\nname = 'b'\naddress = ['[::]:444', §'[::]:443']\n{ROUTE}{UPSTREAM}"),
        &[
            "the address \"[::]:443\" is already at line 3, column 11; remove one of the two, or choose another port",
        ],
    );
    assert_errors(
        &format!(
            "[[listen]]\nname = 'a'\naddress = ['192.0.2.1:1', §'[::ffff:192.0.2.1]:1']\n{ROUTE}{UPSTREAM}"
        ),
        &[
            "the address \"192.0.2.1:1\" is already at line 3, column 12; remove one of the two, or choose another \
           port",
        ],
    );
}

#[test]
fn both_unspecified_addresses_overlap() {
    assert_errors(
        &format!("[[listen]]\nname = 'a'\naddress = [§'0.0.0.0:443', '[::]:443']\n{ROUTE}{UPSTREAM}"),
        &[
            "\"[::]:443\" at line 3, column 27 takes IPv4 as well, so it takes \"0.0.0.0:443\" too; keep only \
           \"[::]:443\"",
        ],
    );
}

#[test]
fn a_listener_does_not_take_the_port_of_the_admin_http() {
    let way_out = "choose another port here or for 'http' in [admin], or write http = \"\" there";
    for (address, http) in
        [("[::]:10944", "127.0.0.1"), ("0.0.0.0:10944", "127.0.0.1"), ("127.0.0.1:10944", "127.0.0.1")]
    {
        assert_errors(
            &format!("[[listen]]\nname = 'a'\naddress = §'{address}'\n{ROUTE}{UPSTREAM}"),
            &[&format!("\"{address}\" takes the port of the admin HTTP, \"{http}:10944\"; {way_out}")],
        );
    }
    assert_errors(
        &format!(
            "[[listen]]\nname = 'a'\naddress = §'[::1]:9'\n{ROUTE}{UPSTREAM}[admin]\nhttp = '[::1]:9'\n"
        ),
        &[&format!("\"[::1]:9\" takes the port of the admin HTTP, \"[::1]:9\"; {way_out}")],
    );
}

#[test]
fn a_server_is_not_our_own_listener() {
    let loops = |listen: &str, server: &str| {
        let text = format!(
            "[[listen]]\nname = 'a'\naddress = '{listen}'\n{ROUTE}[[upstream]]\nname = 'web'\n\
             servers = ['10.0.0.5:1', §'{server}']\n"
        );
        assert_errors(
            &text,
            &[&format!(
                "\"{server}\" is our own listener \"{listen}\" at line 3, column 11: connections would loop; write \
                 the address and port of the service itself, or move the listener"
            )],
        );
    };
    loops("192.0.2.1:443", "192.0.2.1:443");
    loops("[::]:443", "127.0.0.1:443");
    loops("[::]:443", "127.1.2.3:443");
    loops("[::]:443", "[::1]:443");
    loops("[::]:443", "0.0.0.0:443");
    loops("[::]:443", "[::]:443");
    loops("[::]:443", "localhost:443");
    loops("[::1]:443", "LOCALHOST.:443");
    loops("0.0.0.0:443", "127.0.0.1:443");
    loops("0.0.0.0:443", "0.0.0.0:443");
    loops("127.0.0.1:443", "0.0.0.0:443");
    loops("127.0.0.1:443", "localhost:443");
    loops("[::1]:443", "[::]:443");
}

#[test]
fn two_routes_do_not_take_the_same() {
    let way_out = "remove one of the two: the second would never be used";
    assert_errors(
        &format!(
            "{LISTEN}{ROUTE}[[route]]\nname = 'b'\nsni = ['x.a', 'www.a']\nto = 'web'\n[[route]]\nname = 'c'\n\
             sni = ['y.a', §'WWW.a.']\nto = 'web'\n[[route]]\nname = 'd'\ndefault = §true\nto = 'web'\n{UPSTREAM}"
        ),
        &[
            &format!("the route \"b\" at line 10, column 15 already takes www.a; {way_out}"),
            &format!(
                "the route \"web\" at line 6, column 11 already takes what no other route takes; {way_out}"
            ),
        ],
    );
    assert_errors(
        &format!(
            "{LISTEN}{UPSTREAM}[[route]]\nname = 'b'\nsource = ['10.0.0.0/8', '192.0.2.1']\nto = 'web'\n\
             [[route]]\nname = 'c'\nsource = [§'192.0.2.1/32']\nto = 'web'\n\
             [[route]]\nname = 'd'\nsni = 'a.b'\nsource = '192.0.2.1'\nto = 'web'\n\
             [[route]]\nname = 'e'\nsni = §'a.b'\nsource = ['192.0.2.1', '::1']\nto = 'web'\n"
        ),
        &[
            &format!(
                "the route \"b\" at line 9, column 25 already takes any name from 192.0.2.1/32; {way_out}"
            ),
            &format!(
                "the route \"d\" at line 17, column 7 already takes a.b for clients in 192.0.2.1/32; {way_out}"
            ),
        ],
    );
}

/// A route whose sources are wrong does not look like one for all clients.
#[test]
fn a_wrong_source_brings_no_second_error() {
    assert_errors(
        &format!(
            "{LISTEN}{UPSTREAM}[[route]]\nname = 'b'\nsni = 'a.b'\nto = 'web'\n\
             [[route]]\nname = 'c'\nsni = 'a.b'\nsource = §'10.0.0.0/99'\nto = 'web'\n"
        ),
        &[
            "\"10.0.0.0/99\" is not a range of addresses; write one such as \"10.0.0.0/8\" or \"2001:db8::/32\", or a \
           single address",
        ],
    );
}

#[test]
fn the_table_of_routes_is_bounded() {
    let list = |count: usize, entry: fn(usize) -> String| {
        (0..count).map(|n| format!("'{}',", entry(n))).collect::<String>()
    };
    let names = list(1000, |n| format!("n{n}"));
    let sources = |count| list(count, |n| format!("10.0.{}.{}", n / 256, n % 256));
    let text = |count| {
        format!(
            "{LISTEN}{UPSTREAM}§[[route]]\nname = 'a'\nsni = [{names}]\nsource = [{}]\nto = 'web'\n",
            sources(count)
        )
    };
    assert!(super::parse(&unmark(&text(100)).0, "test.toml").is_ok());
    assert_errors(
        &text(101),
        &[
            "with this [[route]] there are more than 100000 pairs of pattern and source; use '*' and '**' patterns and \
           larger networks",
        ],
    );
}

#[test]
fn there_is_something_to_do() {
    let no_listen = "there is no [[listen]]; add one with name = \"tls\" and address = [\"[::]:443\"], or start from \
                     'snisplice config default'";
    assert_errors("§", &[no_listen]);
    assert_errors(&format!("§# comment\n{ROUTE}{UPSTREAM}"), &[no_listen]);
    assert_errors(
        &format!("[[listen]]\nname = 'a'\naddress = '[::]:1'\nto = 'web'\n§{LISTEN}{UPSTREAM}"),
        &[
            "this [[listen]] has no 'to', and there is no [[route]]; add to = \"UPSTREAM\" to send everything to one \
           upstream, or add a [[route]]",
        ],
    );
}

/// Ten mistakes of ten kinds: each is found, with its place, in one run.
#[test]
fn ten_different_errors_are_reported_at_once() {
    let marked = r#"# ten mistakes
[[listen]]
name = §"TLS"
address = ["[::]:443", §"0.0.0.0"]

§[[listen]]
address = §"[::]:443"

[[route]]
name = "polling"
snis = ["polling.**"]
sni = §5
to = §"octopus-poling"

[[upstream]]
name = "octopus-polling"
servers = [§"127.0.0.1:443", §"backend:0"]
datapath = §"pocket"
hold = §15

[timeouts]
hello = §"10"
"#;
    let (text, marks) = unmark(&marked.replace("snis", "§snis"));
    let errors = errors_of(&text);
    let places: Vec<_> =
        errors.problems.iter().map(|error| (error.line.unwrap(), error.column.unwrap())).collect();
    assert_eq!(places, marks);
    let shown = errors.to_string();
    let starts = [
        "test.toml:3:8: \"TLS\" is not a name; ",
        "test.toml:4:24: \"0.0.0.0\" is not an address to listen on; ",
        "test.toml:6:1: this [[listen]] has no 'name'; ",
        "test.toml:7:11: the address \"[::]:443\" is already at line 4, column 12; ",
        "test.toml:11:1: unknown key \"snis\" in [[route]]; did you mean 'sni'?",
        "test.toml:12:7: 'sni' must be an array of strings, not an integer; ",
        "test.toml:13:6: unknown upstream \"octopus-poling\"; did you mean \"octopus-polling\"? ",
        "test.toml:17:12: \"127.0.0.1:443\" is our own listener \"[::]:443\" at line 4, column 12: ",
        "test.toml:17:29: port 0 in \"backend:0\" is not a port; ",
        "test.toml:18:12: \"pocket\" is not a datapath; ",
        "test.toml:19:8: 'hold' is a number without a unit; ",
        "test.toml:22:9: \"10\" is not a duration; ",
    ];
    assert_eq!(shown.lines().count(), starts.len(), "{shown}");
    for (line, start) in shown.lines().zip(starts) {
        assert!(line.starts_with(start), "{line}\ndoes not start with\n{start}");
    }
}
