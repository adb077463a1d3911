//! What is measured, and in which order.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Resource;

use crate::load::bulk::{self, Direction, Load};
use crate::load::{Stage, connects, idle, ping, storm, tls};
use crate::network::Placement;
use crate::system::{SYSTEMS, System};
use crate::values::Values;

/// The pace of flows that are compared at equal load, in bytes per second: 2 Gbit/s.
const PACE: f64 = 250e6;

/// Descriptors that this process has besides those of the flows, at most.
const OWN_DESCRIPTORS: usize = 500;

/// What is done in a scenario.
#[derive(Debug, Clone, Copy)]
enum Work {
    Bulk(Load),
    /// Round trips on so many flows, beside a paced download or alone.
    Ping {
        flows: usize,
        beside_bulk: bool,
    },
    /// Short connections of so many clients.
    Connects(usize),
    TlsBulk,
    TlsHandshakes,
    /// So many flows that do nothing.
    Idle(usize),
    /// So many clients that come back at once.
    Storm(usize),
}

/// One thing to measure of each system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// As `--only` selects it, by its beginning.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) placement: Placement,
    /// True for those of `--quick`.
    quick: bool,
    work: Work,
}

use Direction::{Both, Down, Up};
use Placement::{Loopback, Routed, SameHost};

const fn bulk(flows: usize, direction: Direction) -> Work {
    Work::Bulk(Load { flows, direction, pace: None })
}

const fn paced(direction: Direction) -> Work {
    Work::Bulk(Load { flows: 1, direction, pace: Some(PACE) })
}

const fn ping(flows: usize, beside_bulk: bool) -> Work {
    Work::Ping { flows, beside_bulk }
}

const fn scenario(
    id: &'static str,
    title: &'static str,
    placement: Placement,
    quick: bool,
    work: Work,
) -> Scenario {
    Scenario { id, title, placement, quick, work }
}

/// All scenarios, in the order of the tables.
pub(crate) const SCENARIOS: [Scenario; 24] = [
    scenario("bulk-up-1", "Upload, 1 connection", Routed, true, bulk(1, Up)),
    scenario("bulk-down-1", "Download, 1 connection", Routed, true, bulk(1, Down)),
    scenario("bulk-both-1", "Both ways at once, 1 connection", Routed, false, bulk(1, Both)),
    scenario("bulk-up-32", "Upload, 32 connections", Routed, false, bulk(32, Up)),
    scenario("bulk-down-32", "Download, 32 connections", Routed, false, bulk(32, Down)),
    scenario("bulk-both-32", "Both ways at once, 32 connections", Routed, false, bulk(32, Both)),
    scenario("paced-up", "Upload at 2 Gbit/s", Routed, false, paced(Up)),
    scenario("paced-down", "Download at 2 Gbit/s", Routed, true, paced(Down)),
    scenario("ping-1", "Round trip of 64 bytes, 1 connection", Routed, true, ping(1, false)),
    scenario("ping-64", "Round trips of 64 bytes, 64 connections", Routed, true, ping(64, false)),
    scenario(
        "ping-1-busy",
        "Round trip beside a download of 2 Gbit/s, 1 connection",
        Routed,
        false,
        ping(1, true),
    ),
    scenario(
        "ping-64-busy",
        "Round trips beside a download of 2 Gbit/s, 64 connections",
        Routed,
        false,
        ping(64, true),
    ),
    scenario("connects", "New connections, 32 clients", Routed, true, Work::Connects(32)),
    scenario("tls-down", "Download over TLS, 1 connection", Routed, false, Work::TlsBulk),
    scenario("tls-handshake", "TLS handshakes, one after the other", Routed, false, Work::TlsHandshakes),
    scenario("storm", "4000 clients come back at once", Routed, true, Work::Storm(4000)),
    scenario("idle", "9000 idle connections", Routed, false, Work::Idle(9000)),
    scenario("idle-4000", "4000 idle connections", Routed, false, Work::Idle(4000)),
    scenario(
        "samehost-up",
        "Backend on the proxy's host: upload, 1 connection",
        SameHost,
        false,
        bulk(1, Up),
    ),
    scenario(
        "samehost-down",
        "Backend on the proxy's host: download, 1 connection",
        SameHost,
        false,
        bulk(1, Down),
    ),
    scenario(
        "samehost-ping",
        "Backend on the proxy's host: round trip, 1 connection",
        SameHost,
        false,
        ping(1, false),
    ),
    scenario("loopback-up", "All on one host: upload, 1 connection", Loopback, false, bulk(1, Up)),
    scenario("loopback-down", "All on one host: download, 1 connection", Loopback, true, bulk(1, Down)),
    scenario("loopback-ping", "All on one host: round trip, 1 connection", Loopback, false, ping(1, false)),
];

impl Scenario {
    pub(crate) fn with_id(id: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.id == id)
    }

    /// True where memory that the system has from before would hide what it takes. Such a scenario cannot be repeated
    /// either.
    pub(crate) fn needs_fresh_start(&self) -> bool {
        matches!(self.work, Work::Idle(_))
    }

    /// Measures one system.
    pub(crate) fn run(&self, stage: &Stage<'_>) -> Result<Values> {
        match self.work {
            Work::Bulk(load) => bulk::run(stage, load),
            Work::Ping { flows, beside_bulk: false } => ping::run(stage, flows),
            Work::Ping { flows, beside_bulk: true } => {
                let load = Load { flows: 1, direction: Down, pace: Some(PACE) };
                let beside = bulk::Flows::open(stage.path, 1)?;
                Ok(beside.run(load, || ping::run(stage, flows))?.0)
            }
            Work::Connects(clients) => connects::run(stage, clients),
            Work::TlsBulk => tls::bulk(stage),
            Work::TlsHandshakes => tls::handshakes(stage),
            Work::Idle(flows) => idle::run(stage, at_most(flows)),
            Work::Storm(clients) => storm::run(stage, at_most(clients)),
        }
    }
}

/// So many flows, or as many as this process may have descriptors for: it has both ends of each.
fn at_most(flows: usize) -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    flows.min(limit.saturating_sub(OWN_DESCRIPTORS) / 2)
}

/// What a run measures.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) systems: Vec<System>,
    pub(crate) rounds: usize,
    /// How long each figure is measured.
    pub(crate) window: Duration,
}

impl Plan {
    /// Scenarios whose ids begin with one of `only`, and the systems of these names; all where there is none.
    pub(crate) fn choose(
        quick: bool,
        only: &[String],
        names: &[String],
    ) -> Result<(Vec<Scenario>, Vec<System>)> {
        for prefix in only {
            let known = SCENARIOS.iter().any(|scenario| scenario.id.starts_with(prefix.as_str()));
            let ids = SCENARIOS.map(|scenario| scenario.id).join(", ");
            ensure!(known, "no scenario begins with {prefix:?}: there are {ids}");
        }
        for name in names {
            let all = SYSTEMS.map(|system| system.name).join(", ");
            ensure!(System::named(name).is_some(), "no system is called {name:?}: there are {all}");
        }
        let chosen = |scenario: &Scenario| match only {
            [] => scenario.quick || !quick,
            some => some.iter().any(|prefix| scenario.id.starts_with(prefix.as_str())),
        };
        let scenarios = SCENARIOS.into_iter().filter(chosen).collect();
        let systems = SYSTEMS.into_iter();
        let systems = systems.filter(|system| match names {
            [] => system.quick || !quick,
            some => some.iter().any(|name| name == system.name),
        });
        Ok((scenarios, systems.collect()))
    }

    /// The systems in the order of this round: each round begins with another one, so that a drift of the machine
    /// hits all alike.
    pub(crate) fn order(&self, round: usize) -> Vec<System> {
        let mut order = self.systems.clone();
        let turn = round % order.len().max(1);
        order.rotate_left(turn);
        order
    }

    /// Scenarios that follow each other and share one start of each system.
    pub(crate) fn groups(&self) -> Vec<&[Scenario]> {
        let together = |one: &Scenario, next: &Scenario| {
            one.placement == next.placement && !one.needs_fresh_start() && !next.needs_fresh_start()
        };
        self.scenarios.chunk_by(together).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn scenarios_are_chosen_by_their_beginning_and_systems_by_name() {
        let (scenarios, systems) =
            Plan::choose(false, &words(&["bulk", "ping-1"]), &words(&["haproxy", "snisplice-copy"])).unwrap();
        let ids: Vec<_> = scenarios.iter().map(|scenario| scenario.id).collect();
        assert_eq!(ids.len(), 8);
        assert!(ids.iter().all(|id| id.starts_with("bulk-") || id.starts_with("ping-1")));
        let names: Vec<_> = systems.iter().map(|system| system.name).collect();
        assert_eq!(names, ["snisplice-copy", "haproxy"]);
        assert!(Plan::choose(false, &words(&["nonsense"]), &[]).is_err());
        assert!(Plan::choose(false, &[], &words(&["hapro"])).is_err());
        let (quick, fewer) = Plan::choose(true, &[], &[]).unwrap();
        assert!(!quick.is_empty() && quick.len() < SCENARIOS.len());
        assert!(!fewer.is_empty() && fewer.len() < SYSTEMS.len());
    }

    #[test]
    fn each_round_begins_with_another_system() {
        let plan =
            Plan { scenarios: Vec::new(), systems: SYSTEMS.to_vec(), rounds: 5, window: Duration::ZERO };
        let firsts: Vec<_> = (0..SYSTEMS.len()).map(|round| plan.order(round)[0].name).collect();
        assert_eq!(firsts, SYSTEMS.map(|system| system.name));
        assert_eq!(plan.order(3).len(), SYSTEMS.len());
    }

    #[test]
    fn idle_memory_is_measured_of_a_fresh_process() {
        let plan =
            Plan { scenarios: SCENARIOS.to_vec(), systems: Vec::new(), rounds: 1, window: Duration::ZERO };
        let groups = plan.groups();
        assert!(groups.iter().any(|group| matches!(group, [one] if one.id == "idle")));
        assert_eq!(groups.iter().map(|group| group.len()).sum::<usize>(), SCENARIOS.len());
        assert!(groups.len() < SCENARIOS.len());
    }

    #[test]
    fn ids_are_unique() {
        for (at, scenario) in SCENARIOS.iter().enumerate() {
            assert!(SCENARIOS[at + 1..].iter().all(|other| other.id != scenario.id), "{}", scenario.id);
        }
    }
}
