//! The programs at the interfaces, on packets that are not of our flows.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use aya::programs::links::PinnedLink;
use harness::daemon::{Daemon, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::guard::frame::Frame;
use harness::netns::{BACKEND_IPV4, BACKEND_IPV6, CLIENT_IPV4, CLIENT_IPV6};
use harness::pins::Pins;
use harness::wire::Program;
use proxy_common::abi::packet::{STATE, STATE_HANDOVERS};

use crate::figures::Figures;

/// Runs of a program for a figure, in so many parts of which the least counts.
const RUNS: u32 = 1_000_000;
const PARTS: u32 = 8;

/// On to the next program, or to the stack (`TC_ACT_UNSPEC`).
const PASS: u32 = u32::MAX;

/// ACK
const ACK: u8 = 0x10;

/// Flows in the map meanwhile.
const FLOWS: usize = 16;

pub(crate) fn measure(launch: &Launch, figures: &mut Figures) -> Result<()> {
    let pins = Pins::create()?;
    let launch = launch.clone().release();
    let site = crate::site(&launch, &pins, "0s")?;
    let flows = (0..FLOWS).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    wait_for("all flows to leave their sockets", PATIENCE, || all_have_left(&site.daemon))
        .with_context(|| format!("{:?}", site.daemon.flows()))?;
    let mut state: Array<_, u32> = Array::try_from(Map::Array(MapData::from_pin(pins.pinned(STATE)?)?))?;
    let tcp4 = Frame::new(CLIENT_IPV4, BACKEND_IPV4, 22, ACK).bytes();
    let tcp6 = Frame::new(CLIENT_IPV6, BACKEND_IPV6, 22, ACK).bytes();
    let mut arp = vec![0; 60];
    arp.splice(12..14, [0x08, 0x06]);
    for (name, program, frame) in [
        ("ingress, TCP over IPv4 that is not ours, ns", "ingress", &tcp4),
        ("ingress, TCP over IPv6 that is not ours, ns", "ingress", &tcp6),
        ("ingress, no IP, not ours, ns", "ingress", &arp),
        ("egress, TCP over IPv4 that is not ours, ns", "egress", &tcp4),
        ("egress, TCP over IPv6 that is not ours, ns", "egress", &tcp6),
        ("egress, TCP over IPv4 that is not ours, while flows leave, ns", "egress", &tcp4),
        ("egress, TCP over IPv6 that is not ours, while flows leave, ns", "egress", &tcp6),
        ("egress, no IP, not ours, while flows leave, ns", "egress", &arp),
    ] {
        // As the daemon does.
        state.set(STATE_HANDOVERS, u32::from(name.contains("while flows leave")), 0)?;
        let program = attached(&pins, program)?;
        let mut least = f64::INFINITY;
        for _ in 0..PARTS {
            let run = program.run(frame, RUNS / PARTS)?;
            ensure!(run.verdict == PASS, "{name}: {run:?}");
            least = least.min(f64::from(run.nanoseconds));
        }
        figures.add(name, least);
    }
    drop(flows);
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

fn all_have_left(daemon: &Daemon) -> Option<()> {
    let flows = daemon.flows().ok()?;
    flows.iter().all(|flow| flow.datapath.as_deref() == Some("packet")).then_some(())
}

/// The program whose link is pinned.
fn attached(pins: &Pins, name: &str) -> Result<Program> {
    let link = aya::programs::links::FdLink::from(PinnedLink::from_pin(pins.link(name)?)?);
    let id = link.info()?.program_id();
    Ok(Program::open(id)?)
}
