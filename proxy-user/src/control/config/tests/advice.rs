//! Warnings.

use super::super::host::{Host, LocalPorts};
use super::{LISTEN, Loaded, ROUTE, UPSTREAM, messages, places, unmark};
use crate::hub::UpstreamRegistry;

/// There are exactly these warnings, at the marks, and no error.
#[track_caller]
fn assert_warnings_on(host: &Host, marked: &str, expected: &[&str]) -> Loaded {
    let (text, marks) = unmark(marked);
    let loaded = match super::super::parse(&text, "test.toml", host, &UpstreamRegistry::default()) {
        Ok(loaded) => loaded,
        Err(errors) => panic!("{errors}\nin:\n{text}"),
    };
    assert_eq!(messages(&loaded.warnings), expected, "in:\n{text}");
    assert_eq!(places(&loaded.warnings), marks, "in:\n{text}");
    loaded
}

#[track_caller]
fn assert_warnings(marked: &str, expected: &[&str]) -> Loaded {
    assert_warnings_on(&Host::default(), marked, expected)
}

#[test]
fn what_has_no_use_is_a_warning() {
    let text =
        format!("{LISTEN}to = 'web'\n§{ROUTE}{UPSTREAM}[[upstream]]\nname = §'old'\nservers = 'a:1'\n");
    let loaded = assert_warnings(
        &text,
        &[
            "no route is used: every [[listen]] has a 'to'; remove the routes, or remove 'to' from a listener",
            "nothing goes to the upstream \"old\"; name it in the 'to' of a route or a listener, or remove it",
        ],
    );
    assert_eq!(loaded.snapshot.upstreams.len(), 2);
    let labelled = loaded.warnings[0].as_warning();
    assert!(labelled.starts_with("test.toml:5:1: warning: no route is used"), "{labelled}");
}

#[test]
fn a_star_alone_is_not_every_name() {
    assert_warnings(
        &format!("{LISTEN}{UPSTREAM}[[route]]\nname = 'a'\nsni = ['**', '*.a', §'*', 'a.b']\nto = 'web'\n"),
        &[
            "\"*\" takes only names of one label, such as \"localhost\"; write \"**\" for every name, or default = true in \
           place of 'sni' for all connections",
        ],
    );
}

#[test]
fn bits_beyond_the_prefix_of_a_source_change_nothing() {
    let loaded = assert_warnings(
        &format!(
            "{LISTEN}{UPSTREAM}[[route]]\nname = 'a'\nto = 'web'\n\
             source = ['192.0.2.0/24', §'10.0.0.5/8', §'2001:db8::1/32', §'::ffff:10.1.2.3/112']\n"
        ),
        &[
            "\"10.0.0.5/8\" has bits set beyond its prefix; write \"10.0.0.0/8\" for the range or \"10.0.0.5\" for the one \
             address",
            "\"2001:db8::1/32\" has bits set beyond its prefix; write \"2001:db8::/32\" for the range or \"2001:db8::1\" \
             for the one address",
            "\"10.1.2.3/16\" has bits set beyond its prefix; write \"10.1.0.0/16\" for the range or \"10.1.2.3\" for the \
             one address",
        ],
    );
    let sources: Vec<_> = loaded.snapshot.routes.routes()[0].source.iter().map(ToString::to_string).collect();
    assert_eq!(sources, ["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32", "10.1.0.0/16"]);
}

#[test]
fn a_server_is_in_an_upstream_once() {
    assert_warnings(
        &format!(
            "{LISTEN}{ROUTE}[[upstream]]\nname = 'web'\n\
             servers = ['10.0.0.5:1', '10.0.0.5:2', §'[::ffff:10.0.0.5]:1', 'a:1', §'a:1', 'b:1']\n"
        ),
        &[
            "the server \"10.0.0.5:1\" is already in this [[upstream]], at line 10, column 12; remove one of the two",
            "the server \"a:1\" is already in this [[upstream]], at line 10, column 63; remove one of the two",
        ],
    );
}

#[test]
fn an_idle_timeout_does_not_end_polling_connections() {
    let warning = "'idle' of \"34s\" also ends polling connections, which are silent for up to 30 s; write \"35s\" or \
                   more, or \"0s\" for no limit";
    let timeouts = |idle: &str| format!("[timeouts]\nidle = §'{idle}'\n");
    let polling = [
        format!("{LISTEN}{ROUTE}{UPSTREAM}").replace("8443", "10943"),
        format!("{LISTEN}{ROUTE}{UPSTREAM}").replace(":443'", ":10943'"),
        format!("{LISTEN}{ROUTE}{UPSTREAM}").replace("'web'", "'octopus-polling'"),
        format!("{LISTEN}{UPSTREAM}[[route]]\nname = 'a'\nsni = 'POLLING.**'\nto = 'web'\n"),
    ];
    for text in &polling {
        assert_warnings(&(text.clone() + &timeouts("34s")), &[warning]);
        for idle in ["0s", "35s", "24h"] {
            assert_warnings(&(text.clone() + &timeouts(idle).replace('§', "")), &[]);
        }
    }
    assert_warnings(&(format!("{LISTEN}{ROUTE}{UPSTREAM}") + &timeouts("34s").replace('§', "")), &[]);
}

fn with_ports(range: &str, reserved: &str) -> Host {
    let ports = LocalPorts { range: range.to_owned(), reserved: reserved.to_owned() };
    Host { local_ports: Some(ports), ..Host::default() }
}

#[test]
fn ports_that_the_kernel_gives_to_others_are_named() {
    let base = format!("{LISTEN}{ROUTE}{UPSTREAM}");
    let warning = |ports: &str, range: &str| {
        format!(
            "on this host the kernel gives ports of {ports} to other connections (net.ipv4.ip_local_port_range is \
             {range}); name other 'ports' in [packet], or add these to net.ipv4.ip_local_reserved_ports"
        )
    };
    let usual = with_ports("32768\t60999\n", "\n");
    let wide = with_ports("1024\t65535\n", "\n");
    let default = warning("61000-65535", "1024-65535");
    assert_warnings_on(&usual, &format!("{base}[packet]\n"), &[]);
    assert_warnings_on(&wide, &format!("{base}§[packet]\nafter = '1s'\n"), &[&default]);
    assert_warnings_on(
        &usual,
        &format!("{base}[packet]\nports = §'40000-40100'\n"),
        &[&warning("40000-40100", "32768-60999")],
    );
    assert_warnings_on(&with_ports("1024 65535", "61000-65535"), &format!("{base}[packet]\n"), &[]);
    assert_warnings_on(&wide, &format!("{base}datapath = §'packet'\n"), &[&default]);
    assert_warnings_on(&wide, &base, &[]);
    assert_warnings(&format!("{base}[packet]\n"), &[]);
}

#[test]
fn a_server_on_this_host_has_a_port_that_the_kernel_gives_to_nobody_else() {
    let warning = |port: u16, range: &str| {
        format!(
            "another connection of this host may get port {port} while this server is down, and then the server cannot start \
             (net.ipv4.ip_local_port_range is {range}); use a port outside of that range, or add {port} to \
             net.ipv4.ip_local_reserved_ports"
        )
    };
    let on = |servers: &str, range: &str, reserved: &str, ports: &[u16]| {
        let addresses = ["10.0.0.1", "2001:db8::1"].into_iter().filter_map(|address| address.parse().ok());
        let host = Host { addresses: addresses.collect(), ..with_ports(range, reserved) };
        let text = format!("{LISTEN}{ROUTE}[[upstream]]\nname = 'web'\nservers = [{servers}]\n");
        let expected: Vec<_> = ports.iter().map(|port| warning(*port, "32768-60999")).collect();
        assert_warnings_on(&host, &text, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    };
    on(
        "§'127.0.0.1:32768', §'[::1]:60999', §'localhost:40000', §'10.0.0.1:40001', §'[2001:db8::1]:40002'",
        "32768\t60999\n",
        "\n",
        &[32768, 60999, 40000, 40001, 40002],
    );
    let elsewhere = "'10.0.0.2:40000', '[2001:db8::2]:40000', 'server.example:40000', '[fe80::1%eth0]:40000'";
    on(elsewhere, "32768 60999", "", &[]);
    on("'127.0.0.1:32767', 'localhost:61000', '10.0.0.1:8443'", "32768 60999", "", &[]);
    on("'127.0.0.1:40000', §'127.0.0.1:40002'", "32768 60999", "40000-40001", &[40002]);
}

#[test]
fn an_interface_that_this_host_does_not_have_is_named() {
    let host = Host { interfaces: Some(["lo".to_owned(), "eth0".to_owned()].into()), ..Host::default() };
    assert_warnings_on(
        &host,
        &format!("{LISTEN}{ROUTE}{UPSTREAM}[guard]\ninterfaces = ['eth0', §'eth1']\n"),
        &[
            "this host has no interface \"eth1\" now; check the name with `ip link`; the guard waits for the interface",
        ],
    );
}

#[test]
fn this_host_is_asked() {
    let host = Host::ask();
    assert!(host.interfaces.is_some_and(|names| names.contains("lo")));
    let range = host.local_ports.unwrap().range;
    assert_eq!(range.split_whitespace().filter(|bound| bound.parse::<u16>().is_ok()).count(), 2, "{range}");
}
