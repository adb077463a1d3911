//! Flows of which a socket does not finish to drain, so that they stay between their sockets and none.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use harness::daemon::Datapath;
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::impair::{Badness, Impaired};
use harness::netns::WordMap;
use harness::peers::raw::{reset, transfer};
use harness::pins::Pins;
use harness::site::{RawSite, config};
use proxy_common::abi::packet::{ENTRY_WORDS, FLOWS, KEY_WORDS};

use crate::{counted, set};

/// A flow whose server does not get what its socket still has to send.
struct Draining {
    site: RawSite,
    client: TcpStream,
    server: TcpStream,
    /// Bytes of the server that the client has got, some of them past the sockets.
    sent: u64,
    deaf: Impaired,
    pins: Pins,
}

impl Draining {
    fn begin() -> Result<Self> {
        Self::begin_after(|_| Ok(()))
    }

    /// `before`: what is done once the connection is there.
    fn begin_after(before: impl FnOnce(&RawSite) -> Result<()>) -> Result<Self> {
        const PART: u64 = 100;
        let pins = Pins::create()?;
        let site = RawSite::start(&config().datapath(Datapath::Packet).packet(&pins, "500ms"))?;
        // Time stamps that say the milliseconds.
        set(&site.net.client, "tcp_timestamps", "2")?;
        // A server that has no answer sends nothing new once it has sent something again.
        site.net.backend.ip_batch("route change 10.2.0.0/24 dev edge src 10.2.0.2 rto_min 60s\n")?;
        let (mut client, mut server) = site.flow()?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
        }
        transfer(&mut server, &mut client, 1, 1000)?;
        // With that the server's bytes are acknowledged.
        transfer(&mut client, &mut server, 2, 1000)?;
        before(&site)?;
        let deaf = Badness { lost: 1_000_000, ..Badness::default() };
        let deaf = Impaired::at(&site.net.backend, "edge", deaf)?;
        client.write_all(&[7; 1000])?;
        let entries = WordMap::open(&pins.pinned(FLOWS)?, KEY_WORDS, ENTRY_WORDS)?;
        wait_for("the flow to be watched", PATIENCE, || (entries.count().ok()? == 2).then_some(()))?;
        // As many as are sent without an answer.
        let mut sent = 1000;
        for number in 0..9 {
            dawdle(Duration::from_millis(40));
            transfer(&mut server, &mut client, 3 + number, PART)?;
            sent += PART;
        }
        assert!(counted(&site.daemon)?.forwarded_bytes > 0, "it has not left");
        Ok(Self { site, client, server, sent, deaf, pins })
    }
}

#[test]
fn bytes_that_go_past_sockets_which_still_drain_are_counted() -> Result<()> {
    let Draining { site, client, server, sent, deaf, pins } = Draining::begin()?;
    let address = client.local_addr()?;
    reset(client)?;
    let access = site.daemon.wait_for_access(address)?;
    assert_eq!((access.reason.as_str(), access.bytes_out), ("client_reset", sent), "{access:?}");
    assert_eq!(access.datapath.as_deref(), Some("packet"), "{access:?}");
    let metrics = site.daemon.metrics()?;
    assert_eq!(metrics.count("snisplice_bytes_total", &[("direction", "out")]), sent);
    drop((server, deaf));
    site.daemon.stop()?;
    drop(pins);
    Ok(())
}

/// A reset behind bytes that nobody has acknowledged may be a stranger's. That of an end which has gone for it is certain.
#[test]
fn the_first_to_reset_is_named_though_only_the_other_one_is_believed() -> Result<()> {
    let Draining { site, mut client, server, deaf, pins, .. } = Draining::begin()?;
    let address = client.local_addr()?;
    let before = counted(&site.daemon)?;
    client.write_all(&[8; 500])?;
    reset(client)?;
    wait_for("the client's reset to be doubted", PATIENCE, || {
        (counted(&site.daemon).ok()?.invalid > before.invalid).then_some(())
    })?;
    drop(deaf);
    reset(server)?;
    let access = site.daemon.wait_for_access(address)?;
    assert_eq!(
        (access.reason.as_str(), access.side.as_deref()),
        ("client_reset", Some("client")),
        "{access:?}"
    );
    site.daemon.stop()?;
    drop(pins);
    Ok(())
}

/// The server has seen time stamps of our socket that are later than all that the client sends now (RFC 7323, 5.3: it drops those).
#[test]
fn an_end_whose_clock_ticks_slowly_goes_on_when_a_socket_had_to_send_again() -> Result<()> {
    let mut stopped = None;
    let draining = Draining::begin_after(|site| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_ms = u32::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000)?;
        stopped = Some(Impaired::stopped(&site.net.client, "edge", now_ms)?);
        Ok(())
    })?;
    let Draining { site, mut client, mut server, deaf, pins, .. } = draining;
    drop(deaf);
    site.daemon.wait_for_packets(1)?;
    let mut bytes = [0; 1000];
    server.read_exact(&mut bytes)?;
    assert_eq!(bytes, [7; 1000]);
    transfer(&mut client, &mut server, 20, 100_000)?;
    transfer(&mut server, &mut client, 21, 100_000)?;
    drop((client, server, stopped));
    site.daemon.stop()?;
    drop(pins);
    Ok(())
}
