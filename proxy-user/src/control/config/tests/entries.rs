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
        ("", "write IP:port"),
        (":443", "write [::] before the port to listen on every address"),
        ("*:443", "write [::] before the port to listen on every address"),
        ("192.0.2.1", "add the port"),
        ("[2001:db8::1]", "add the port"),
        ("2001:db8::1", "add the port, and write an IPv6 address in brackets"),
        ("[::]:65536", "write a port from 1 to 65535"),
        ("[::]:70000", "write a port from 1 to 65535"),
        ("[::]:https", "write a port from 1 to 65535"),
        ("192.0.2.1:99999", "write a port from 1 to 65535"),
    ] {
        assert_listen_error(
            &format!("name = 'a'\naddress = ['192.0.2.9:1', §'{address}']"),
            &format!("\"{address}\" is not an address to listen on; {way_out}, {example}"),
        );
    }
    for (address, meant) in [(":::443", "[::]:443"), ("2001:0:0:0:0:0:0:1:443", "[2001:0:0:0:0:0:0:1]:443")] {
        assert_listen_error(
            &format!("name = 'a'\naddress = §'{address}'"),
            &format!(
                "\"{address}\" is not an address to listen on; write \"{meant}\", with an IPv6 address in brackets"
            ),
        );
    }
    assert_listen_error(
        "name = 'a'\naddress = §'2001:db8::1:443'",
        "\"2001:db8::1:443\" is not an address to listen on; add the port, or write \"[2001:db8::1]:443\" if that is \
         the port",
    );
    assert_listen_error(
        "name = 'a'\naddress = §'[::]:0'",
        "port 0 in \"[::]:0\" is not a port; write a port from 1 to 65535",
    );
}

#[test]
fn a_server_is_an_ip_or_a_host_and_a_port() {
    let example = "for example \"10.0.0.5:8443\", \"[2001:db8::5]:8443\" or \"backend.example:8443\"";
    for (server, way_out) in [
        ("10.0.0.5", "add the port"),
        ("10.0.0.5:65536", "write a port from 1 to 65535"),
        ("[::1]:70000", "write a port from 1 to 65535"),
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
    assert_upstream_error(
        "servers = §':::443'",
        "\":::443\" is not a server; write \"[::]:443\", with an IPv6 address in brackets",
    );
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
fn a_link_local_server_has_an_interface() {
    assert_upstream_error(
        "servers = ['[fe80::1%eth0]:1', '[fe80::1%2]:1', §'[fe80::1]:8443']",
        "\"[fe80::1]:8443\" is a link-local address, and does not say on which interface; add it, such as \
         \"[fe80::1%eth0]:8443\"",
    );
    assert_upstream_error(
        "servers = §'[2001:db8::1%eth0]:8443'",
        "\"[2001:db8::1%eth0]:8443\" names an interface, which only a link-local address (fe80::/10) needs; write \
         \"[2001:db8::1]:8443\"",
    );
    assert_upstream_error(
        "servers = §'[fe80::1%a/b]:8443'",
        "\"a/b\" is not the name of an interface; write one that `ip link` shows, such as \"eth0\"",
    );
    assert_upstream_error(
        "servers = §'[fe80::1%eth0]:0'",
        "port 0 in \"[fe80::1%eth0]:0\" is not a port; write a port from 1 to 65535",
    );
    for address in ["[fe80::1]:443", "[fe80::1%eth0]:443"] {
        assert_listen_error(
            &format!("name = 'a'\naddress = §'{address}'"),
            &format!(
                "\"{address}\" is a link-local address, which cannot be listened on by itself; write \"[::]:443\", which \
                 takes connections to it as well"
            ),
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
    for text in ["", "10", "s", "-1s", "1.s.", "1.0005s", "1y", "s1"] {
        assert_section_error(
            &format!("[timeouts]\nhello = §'{text}'"),
            &format!(
                "\"{text}\" is not a duration; write a whole number and ms, s, m or h, for example \"250ms\", \
                 \"10s\" or \"5m\""
            ),
        );
    }
    for (text, meant) in [
        ("1d", "24h"),
        ("1.5s", "1500ms"),
        ("0.25s", "250ms"),
        ("1.5h", "90m"),
        ("1h30m", "90m"),
        ("10 s", "10s"),
        ("10S", "10s"),
        ("5 min", "5m"),
        ("90 seconds", "90s"),
    ] {
        assert_section_error(
            &format!("[timeouts]\nhello = §'{text}'"),
            &format!(
                "\"{text}\" is not a duration; write a whole number and ms, s, m or h, here \"{meant}\""
            ),
        );
    }
    assert_section_error("[timeouts]\nhello = §'2d'", "\"2d\" is too long; write \"1ms\" to \"24h\"");
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
fn a_size_has_a_unit_of_the_powers_of_two() {
    for (text, meant) in [
        ("512MB", "512MiB"),
        ("512mb", "512MiB"),
        ("512M", "512MiB"),
        ("512 MiB", "512MiB"),
        ("1.5GiB", "1536MiB"),
        ("1TB", "1024GiB"),
    ] {
        assert_section_error(
            &format!("[limits]\ntcp_memory = §'{text}'"),
            &format!("\"{text}\" is not a size; write a whole number and KiB, MiB or GiB, here \"{meant}\""),
        );
    }
    for text in ["", "512", "MiB", "1.5.5GiB", "512EB", "1 MiB 2"] {
        assert_section_error(
            &format!("[limits]\ntcp_memory = §'{text}'"),
            &format!(
                "\"{text}\" is not a size; write a whole number and KiB, MiB or GiB, for example \"1MiB\""
            ),
        );
    }
    let bounds = "write \"1MiB\" to \"1024GiB\"";
    assert_section_error("[limits]\ntcp_memory = §'1023KiB'", &format!("\"1023KiB\" is too small; {bounds}"));
    assert_section_error("[limits]\ntcp_memory = §'1025GiB'", &format!("\"1025GiB\" is too large; {bounds}"));
    let bounds = "write \"4KiB\" to \"64KiB\"";
    assert_section_error("[limits]\nhello_size = §'3KiB'", &format!("\"3KiB\" is too small; {bounds}"));
    assert_section_error("[limits]\nhello_size = §'65KiB'", &format!("\"65KiB\" is too large; {bounds}"));
    assert_section_error(
        "[limits]\nhello_size = §'99999999999999999999GiB'",
        &format!("\"99999999999999999999GiB\" is too large; {bounds}"),
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

/// The one that seems unknown may be the one that still has its neighbour's name, or none yet.
#[test]
fn an_upstream_whose_name_is_wrong_makes_no_other_one_unknown() {
    let rest = "[[route]]\nname = 'a'\ndefault = true\nto = 'octopus'\n";
    let second = UPSTREAM.replace("'web'", "§'web'");
    assert_errors(
        &format!("{LISTEN}{rest}{UPSTREAM}{second}"),
        &["the upstream \"web\" is already at line 9, column 8; give one of the two another name"],
    );
    assert_errors(
        &format!("{LISTEN}{rest}{UPSTREAM}§[[upstream]]\nservers = 'a:1'\n"),
        &["this [[upstream]] has no 'name'; add name = \"web\""],
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
fn a_path_is_one_of_unix() {
    for (section, path) in
        [("[admin]\nsocket", r"C:\run\x"), ("[packet]\njournal", r"C:/x"), ("[packet]\npins", r"\\server\x")]
    {
        let shown = format!("{path:?}");
        assert_section_error(
            &format!("{section} = §'{path}'"),
            &format!(
                "{shown} is a path of Windows; write a Unix path, such as \"/run/snisplice/admin.sock\""
            ),
        );
    }
}

#[test]
fn the_names_of_the_admin_http_are_host_names() {
    for name in ["metrics.example:10944", "*.example", "127.0.0.1"] {
        assert_section_error(
            &format!("[admin]\nhosts = ['good.example', §'{name}']"),
            &format!(
                "\"{name}\" is not a host name; write a name such as \"metrics.example.com\", without a port; IP \
                 addresses and localhost need not be listed"
            ),
        );
    }
}

#[test]
fn variables_are_not_substituted() {
    let message =
        |value: &str| format!("variables are not substituted, and {value:?} has one; write the value itself");
    for value in ["${X}:443", "$ADDRESS", "{{ .Values.address }}"] {
        assert_listen_error(&format!("name = 'a'\naddress = ['[::]:1', §'{value}']"), &message(value));
    }
    assert_section_error("[admin]\nsocket = §'${DIR}/admin.sock'", &message("${DIR}/admin.sock"));
    assert_errors("[[listen]]\naddress = §${ADDRESS}\n", &[&message("${ADDRESS}")]);
    assert_errors("[[listen]]\naddress = §$ADDRESS # x\n", &[&message("$ADDRESS")]);
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
