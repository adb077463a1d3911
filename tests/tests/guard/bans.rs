//! Bans: by the daemon, by an operator, and who is spared.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{CLIENT_IPV4, CLIENT_IPV6, EDGE_IPV4, EDGE_IPV6};
use harness::peers::raw::{Ending, expect_ending, finish, is_reset, read_to_ending};
use harness::site::{RawSite, SHARED_PORT, config};
use harness::wire::Guard;

/// How long a connection that nobody answers is given.
const SILENCE: Duration = Duration::from_millis(400);

fn edge(from: IpAddr) -> SocketAddr {
    SocketAddr::new(if from.is_ipv4() { EDGE_IPV4 } else { EDGE_IPV6 }, SHARED_PORT)
}

/// A record of a handshake that is no hello.
const BROKEN: [u8; 9] = [22, 3, 1, 0, 4, 2, 0, 0, 0];

fn offend(site: &RawSite, from: IpAddr, bytes: &[u8]) -> Result<()> {
    let mut client = site.net.client.connect(edge(from))?;
    let address = client.local_addr()?;
    // The daemon may have reset it by then.
    drop((client.write_all(bytes), finish(&client)));
    drop(read_to_ending(&mut client));
    site.daemon.wait_for_access(address).map(drop)
}

fn is_answered(site: &RawSite, from: IpAddr) -> Result<bool> {
    site.net.client.enter(|| Ok(TcpStream::connect_timeout(&edge(from), SILENCE).is_ok()))
}

#[test]
fn a_source_that_sends_no_or_broken_hellos_is_banned_and_can_be_forgiven() -> Result<()> {
    for (from, bytes, reason, net) in [
        (CLIENT_IPV4, BROKEN.as_slice(), "broken_hello", "10.1.0.2/32"),
        (CLIENT_IPV6, [].as_slice(), "no_hello", "fd00:1::/64"),
    ] {
        let site = RawSite::start(&config().guard("client", "ban_after = 4\nban_time = \"1h\"\n"))?;
        Guard::attached(&site.daemon, "client")?;
        for _ in 0..2 {
            offend(&site, from, bytes)?;
        }
        assert!(is_answered(&site, from)?);
        assert_eq!(Guard::of(&site.daemon)?.bans, 0);
        // That was an offence, too: a connection without a hello. This is one too many.
        drop(offend(&site, from, bytes));
        let guard = Guard::wait(&site.daemon, "the ban", |guard| guard.bans == 1)?;
        let [ban] = &guard.list[..] else { anyhow::bail!("{guard:?}") };
        assert_eq!(ban.net, net);
        ensure!(ban.reason == reason || ban.reason == "no_hello", "{ban:?}");
        assert!(ban.seconds_left.is_some_and(|left| (3500..=3600).contains(&left)), "{ban:?}");
        assert!(!is_answered(&site, from)?);
        let text = Guard::command(&site.daemon, &["list"])?.success()?;
        assert!(text.contains(net), "{text}");
        Guard::wait(&site.daemon, "drops to be counted", |guard| guard.count("drop", "banned") > 0)?;
        Guard::command(&site.daemon, &["unban", net])?.success()?;
        assert!(is_answered(&site, from)?);
        let again = Guard::command(&site.daemon, &["unban", net])?;
        assert!(again.code == Some(69) && again.stderr.contains("there is no ban of"), "{again:?}");
        site.daemon.stop()?;
    }
    Ok(())
}

#[test]
fn a_source_with_too_many_connections_is_turned_away_and_banned_if_it_insists() -> Result<()> {
    const MOST: usize = 3;
    let lines = "ban_after = 4\nban_time = \"1h\"\nprotect = [\"octopus-polling\"]\n";
    let site = RawSite::start(&config().source_connections(MOST).guard("client", lines))?;
    Guard::attached(&site.daemon, "client")?;
    let connect = || site.net.client.connect(edge(CLIENT_IPV6));
    let mut held = (0..MOST).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    let count = |what: &str, count: usize| {
        let name = format!("snisplice_connections_{what}_total");
        site.daemon.wait_for_metric(&name, &[("listener", "tls")], count as f64)
    };
    // Workers accept side by side: only then do these come before the next.
    count("accepted", MOST)?;
    // The reset may be faster than the system call.
    let be_turned_away = || match connect() {
        Ok(mut client) => expect_ending(&mut client, Ending::Reset),
        Err(error) if error.downcast_ref().is_some_and(is_reset) => Ok(()),
        Err(error) => Err(error),
    };
    be_turned_away()?;
    count("turned_away", 1)?;
    // Another source is not concerned, and a place that becomes free is given again.
    let flow = site.flow()?;
    let gone = held.pop();
    let address = gone.as_ref().map(TcpStream::local_addr).transpose()?;
    drop(gone);
    site.daemon.wait_for_access(address.context("a connection was held")?)?;
    held.push(connect()?);
    count("accepted", MOST + 3)?;
    for _ in 0..2 {
        be_turned_away()?;
    }
    count("turned_away", 3)?;
    let guard = Guard::wait(&site.daemon, "the ban", |guard| guard.bans == 1)?;
    assert_eq!((guard.list[0].net.as_str(), guard.list[0].reason.as_str()), ("fd00:1::/64", "too_many"));
    // Or the daemon would not hear of their ends.
    Guard::command(&site.daemon, &["unban", "fd00:1::/64"])?.success()?;
    drop((held, flow));
    site.daemon.stop()
}

#[test]
fn neither_an_allowed_source_nor_one_with_a_protected_flow_is_banned() -> Result<()> {
    let site = RawSite::start(
        &config()
            .guard("client", "ban_after = 2\nallow = [\"fd00:1::/64\"]\nprotect = [\"octopus-polling\"]\n"),
    )?;
    Guard::attached(&site.daemon, "client")?;
    let (client, server) = site.flow()?;
    for from in [CLIENT_IPV4, CLIENT_IPV6] {
        for _ in 0..4 {
            offend(&site, from, &BROKEN)?;
        }
    }
    let refused =
        |guard: &Guard, reason| guard.bans_refused.iter().any(|one| one.reason == reason && one.count == 2);
    Guard::wait(&site.daemon, "two refusals of each kind", |guard| {
        refused(guard, "protected") && refused(guard, "allowed")
    })?;
    for (net, why) in [("10.1.0.0/16", "established connections"), ("fd00:1::2", "allow list")] {
        let answer = Guard::command(&site.daemon, &["ban", net])?;
        assert!(answer.code == Some(69) && answer.stderr.contains(why), "{answer:?}");
    }
    assert_eq!(Guard::of(&site.daemon)?.bans, 0);
    drop((client, server));
    site.daemon.wait_for_idle()?;
    // Nobody is protected any more.
    for _ in 0..2 {
        drop(offend(&site, CLIENT_IPV4, &BROKEN));
    }
    Guard::wait(&site.daemon, "the ban", |guard| guard.bans == 1)?;
    site.daemon.stop()
}

#[test]
fn an_operator_bans_networks_of_any_size_for_a_while_or_by_force() -> Result<()> {
    let site = RawSite::start(&config().guard("client", ""))?;
    Guard::attached(&site.daemon, "client")?;
    for net in ["10.1.0.2", "10.1.0.0/24", "0.0.0.0/0", "10.1.0.2/31"] {
        Guard::command(&site.daemon, &["ban", net, "--for", "1h"])?.success()?;
        assert!(!is_answered(&site, CLIENT_IPV4)?, "{net}");
        assert!(is_answered(&site, CLIENT_IPV6)?, "{net}");
        Guard::command(&site.daemon, &["unban", net])?.success()?;
        assert!(is_answered(&site, CLIENT_IPV4)?, "{net}");
    }
    Guard::command(&site.daemon, &["ban", "fd00:1::2", "--for", "1500ms", "--json"])?.success()?;
    assert!(!is_answered(&site, CLIENT_IPV6)?);
    wait_for("the ban to be over", PATIENCE, || is_answered(&site, CLIENT_IPV6).ok()?.then_some(()))?;
    Guard::wait(&site.daemon, "the list to be empty", |guard| guard.bans == 0)?;
    let flow = site.flow()?;
    assert_eq!(Guard::command(&site.daemon, &["ban", "10.1.0.2"])?.code, Some(69));
    Guard::command(&site.daemon, &["ban", "10.1.0.2", "--force"])?.success()?;
    assert!(!is_answered(&site, CLIENT_IPV4)?);
    Guard::command(&site.daemon, &["unban", "10.1.0.2"])?.success()?;
    drop(flow);
    assert_eq!(Guard::command(&site.daemon, &["ban", "10.1.0.2/8"])?.code, Some(64));
    site.daemon.stop()
}

#[test]
fn a_ban_in_a_dry_run_says_that_nothing_is_dropped() -> Result<()> {
    let site = RawSite::start(&config().guard("client", "dry_run = true\n"))?;
    Guard::attached(&site.daemon, "client")?;
    let said = Guard::command(&site.daemon, &["ban", "10.1.0.2", "--for", "1h"])?.success()?;
    ensure!(said.contains("banned 10.1.0.2/32\nnothing is dropped: [guard] has dry_run = true"), "{said}");
    ensure!(is_answered(&site, CLIENT_IPV4)?, "it was dropped");
    let listed = Guard::command(&site.daemon, &["list"])?.success()?;
    ensure!(listed.contains("10.1.0.2/32") && listed.contains("nothing is dropped"), "{listed}");
    let json = Guard::command(&site.daemon, &["ban", "10.1.0.3", "--json"])?.success()?;
    let answer: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(answer["dry_run"].as_bool() == Some(true), "{json}");
    site.daemon.stop()
}

#[test]
fn nothing_can_be_changed_over_tcp() -> Result<()> {
    let site = RawSite::start(&config().guard("client", ""))?;
    let over_tcp = site.daemon.get_over_tcp("/api/v1/guard")?;
    assert_eq!(over_tcp.status, 200);
    assert!(!over_tcp.body.contains("\"list\""), "it names who is banned: {}", over_tcp.body);
    for what in ["ban", "unban", "reload"] {
        assert_eq!(site.daemon.get_over_tcp(&format!("/api/v1/guard/{what}"))?.status, 404);
        // Over the socket it is there, and wants a POST.
        assert_eq!(site.daemon.get(&format!("/api/v1/guard/{what}"))?.status, 405);
    }
    site.daemon.stop()
}
