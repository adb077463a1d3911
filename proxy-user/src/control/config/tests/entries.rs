//! Errors in the values of one entry.

use super::{
    LISTEN, ROUTE, UPSTREAM, assert_errors, assert_listen_error, assert_route_error, assert_section_error,
    assert_upstream_error,
};

#[test]
fn names_become_labels_and_are_plain() {
    for name in ["", "Web", "-web", "_web", "we b", "wéb", "web.example", &"a".repeat(64)] {
        let shown = format!("{name:?}");
        assert_listen_error(
            &format!("name = §'{name}'\naddress = '[::]:1'"),
            &format!(
                "{shown} is not a name; use 1 to 63 of a-z, 0-9, '-' and '_', and begin with a letter or digit"
            ),
        );
    }
}

#[test]
fn a_listen_address_is_an_ip_and_a_port() {
    let example = "for example \"[::]:443\" or \"192.0.2.1:443\"";
    for (address, way_out) in [
        ("localhost:443", "write IP:port"),
        ("443", "write IP:port"),
        ("10.0.0.300:443", "write IP:port"),
        ("[::]:65536", "write IP:port"),
        ("", "write IP:port"),
        (":443", "write [::] before the port to listen on every address"),
        ("*:443", "write [::] before the port to listen on every address"),
        ("192.0.2.1", "add the port, and write an IPv6 address in brackets"),
        ("2001:db8::1", "add the port, and write an IPv6 address in brackets"),
    ] {
        assert_listen_error(
            &format!("name = 'a'\naddress = ['192.0.2.9:1', §'{address}']"),
            &format!("\"{address}\" is not an address to listen on; {way_out}, {example}"),
        );
    }
    assert_listen_error(
        "name = 'a'\naddress = §'[::]:0'",
        "port 0 in \"[::]:0\" is not a port; write a port from 1 to 65535",
    );
}

#[test]
fn a_server_is_an_ip_or_a_host_and_a_port() {
    let example = "for example \"10.0.0.5:8443\", \"[2001:db8::5]:8443\" or \"backend.example:8443\"";
    for (server, way_out) in [
        ("10.0.0.5", "add the port, and write an IPv6 address in brackets"),
        ("2001:db8::5", "add the port, and write an IPv6 address in brackets"),
        ("backend.example", "add the port"),
        ("backend.example:", "write a port from 1 to 65535"),
        ("backend.example:https", "write a port from 1 to 65535"),
        ("backend.example:+1", "write a port from 1 to 65535"),
        ("backend.example:65536", "write a port from 1 to 65535"),
        (":443", "write IP:port or host:port"),
        ("10.0.0.300:443", "write IP:port or host:port"),
        ("a..b:443", "write IP:port or host:port"),
        ("-a.b:443", "write IP:port or host:port"),
        ("https://a.b:443", "write IP:port or host:port"),
    ] {
        assert_upstream_error(
            &format!("servers = ['a.b:1', §'{server}']"),
            &format!("\"{server}\" is not a server; {way_out}, {example}"),
        );
    }
    // A label of 64 bytes, and a name of 255.
    for host in ["a".repeat(64), format!("{}a", "a.".repeat(127))] {
        assert_upstream_error(
            &format!("servers = §'{host}:1'"),
            &format!("\"{}\"... is not a server; write IP:port or host:port, {example}", &host[..64]),
        );
    }
    for server in ["10.0.0.5:0", "backend.example:0"] {
        assert_upstream_error(
            &format!("servers = §'{server}'"),
            &format!("port 0 in \"{server}\" is not a port; write a port from 1 to 65535"),
        );
    }
}

#[test]
fn a_datapath_is_one_that_this_version_has() {
    assert_upstream_error(
        "servers = 'a:1'\ndatapath = §'sokmap'",
        "\"sokmap\" is not a datapath; did you mean \"sockmap\"?",
    );
    assert_upstream_error(
        "servers = 'a:1'\ndatapath = §'xdp'",
        "\"xdp\" is not a datapath; write one of auto, packet, local, sockmap, copy",
    );
}

#[test]
fn the_packet_datapath_takes_addresses_and_ways_that_there_are() {
    assert_section_error(
        "[packet]\nsources = ['10.0.0.1', §'10.0.0.2:80']",
        "\"10.0.0.2:80\" is not an IP address; write addresses of this host, such as \"10.0.0.2\", without a port or \
         brackets",
    );
    assert_section_error(
        "[packet]\nattach = §'clsat'",
        "\"clsat\" is not a way to attach programs; did you mean \"clsact\"?",
    );
    assert_section_error(
        "[packet]\nattach = §'xdp'",
        "\"xdp\" is not a way to attach programs; write one of auto, tcx, clsact",
    );
}

#[test]
fn a_duration_has_a_unit_and_bounds() {
    for text in ["", "10", "s", "1.5s", "-1s", "10 s", "10S", "1h30m", "1d"] {
        assert_section_error(
            &format!("[timeouts]\nhello = §'{text}'"),
            &format!(
                "\"{text}\" is not a duration; write a whole number and ms, s, m or h, for example \"250ms\", \
                 \"10s\" or \"5m\""
            ),
        );
    }
    assert_section_error("[timeouts]\nconnect = §'0s'", "\"0s\" is too short; write \"1ms\" to \"24h\"");
    assert_section_error("[timeouts]\ndrain = §'25h'", "\"25h\" is too long; write \"1ms\" to \"24h\"");
    assert_section_error(
        "[timeouts]\nhalf_close = §'86400001ms'",
        "\"86400001ms\" is too long; write \"1ms\" to \"24h\"",
    );
    assert_upstream_error(
        "servers = 'a:1'\nhold = §'99999999999999999999h'",
        "\"99999999999999999999h\" is too long; write \"0s\" to \"24h\"",
    );
}

#[test]
fn a_pattern_error_is_passed_on_with_its_way_out() {
    assert_route_error(
        "name = 'a'\nsni = ['a.b', §'a*.b']",
        "\"a*.b\" is not a server name or a pattern: the part \"a*\" mixes a wildcard with other characters; '*' \
         stands for one whole part between dots and '**' for one or more",
    );
    assert_route_error(
        "name = 'a'\nsni = §'**.a.**'",
        "\"**.a.**\" is not a server name or a pattern: there is more than one '**'; keep one and write '*' for \
         each other part",
    );
}

#[test]
fn a_source_is_a_network() {
    for text in ["", "10.0.0.0/33", "10.0.0/8", "example.com", "10.0.0.0-10.0.0.9"] {
        assert_route_error(
            &format!("name = 'a'\nsource = ['::/0', §'{text}']"),
            &format!(
                "\"{text}\" is not a range of addresses; write one such as \"10.0.0.0/8\" or \"2001:db8::/32\", \
                 or a single address"
            ),
        );
    }
    assert_route_error(
        "name = 'a'\nsource = §'10.1.2.3/8'",
        "\"10.1.2.3/8\" has bits set beyond its prefix; write \"10.0.0.0/8\" for the range or \"10.1.2.3\" for \
         the one address",
    );
}

#[test]
fn a_route_takes_names_or_sources_or_what_is_left() {
    let nothing = "this [[route]] matches nothing: it has no 'sni', no 'source' and no 'default = true'; add sni = \
                   [\"www.example.com\"], or default = true for all that no other route takes";
    assert_errors(&format!("{LISTEN}{UPSTREAM}§[[route]]\nname = 'a'\nto = 'web'\n"), &[nothing]);
    assert_errors(
        &format!("{LISTEN}{UPSTREAM}§[[route]]\nname = 'a'\nto = 'web'\ndefault = false\n"),
        &[nothing],
    );
    for (key, value) in [("sni", "'a.b'"), ("source", "['10.0.0.0/8']")] {
        assert_route_error(
            &format!("name = 'a'\ndefault = true\n{key} = §{value}"),
            &format!(
                "a default route takes all that is left, so it cannot have '{key}'; remove '{key}', or remove \
                 'default'"
            ),
        );
    }
}

#[test]
fn an_unknown_upstream_is_named_beside_the_known_ones() {
    assert_errors(
        &format!("{LISTEN}to = §'wbe'\n{ROUTE}{UPSTREAM}"),
        &["unknown upstream \"wbe\"; did you mean \"web\"? There are \"web\""],
    );
    assert_errors(
        &format!("{LISTEN}{UPSTREAM}[[route]]\nname = 'a'\ndefault = true\nto = §'octopus'\n"),
        &["unknown upstream \"octopus\"; there are \"web\""],
    );
    let many: String = (0..9).map(|n| format!("[[upstream]]\nname = 'u{n}'\nservers = 'a:1'\n")).collect();
    assert_errors(
        &format!("{LISTEN}to = §'octopus'\n{many}"),
        &["unknown upstream \"octopus\"; there are \"u0\", \"u1\", \"u2\", \"u3\", \"u4\", \"u5\", \"u6\", \
           \"u7\" and others"],
    );
}

#[test]
fn the_admin_socket_is_an_absolute_path_that_fits() {
    for path in ["admin.sock", "/run/snisplice/", "@snisplice"] {
        assert_section_error(
            &format!("[admin]\nsocket = §'{path}'"),
            &format!(
                "\"{path}\" is not the path of a socket; write an absolute path such as \
                 \"/run/snisplice/admin.sock\", or \"\" for no admin socket"
            ),
        );
    }
    assert_section_error(
        &format!("[admin]\nsocket = §'/{}'", "a".repeat(107)),
        "the path of the socket has 108 bytes; use a path of at most 107 bytes: the kernel takes no longer one",
    );
}

#[test]
fn the_admin_http_is_loopback_only() {
    for address in ["0.0.0.0:10944", "[::]:10944", "192.0.2.1:10944", "[::ffff:192.0.2.1]:10944"] {
        assert_section_error(
            &format!("[admin]\nhttp = §'{address}'"),
            &format!(
                "\"{address}\" is not a loopback address, and the admin HTTP has no authentication; write \
                 \"127.0.0.1:PORT\" or \"[::1]:PORT\", and put a proxy that authenticates before it"
            ),
        );
    }
    assert_section_error(
        "[admin]\nhttp = §'localhost:10944'",
        "\"localhost:10944\" is not an IP:port; write a loopback address such as \"127.0.0.1:10944\", or \"\" for \
         no HTTP",
    );
    assert_section_error(
        "[admin]\nhttp = §'127.0.0.1:0'",
        "port 0 in \"127.0.0.1:0\" is not a port; write a port from 1 to 65535",
    );
}
