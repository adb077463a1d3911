//! What the project has set out to reach, and if it did.

use crate::compare::{Duel, best, ratio};
use crate::plan::{SCENARIOS, Scenario};
use crate::results::Results;
use crate::system::System;
use crate::values::{Better, Metric};

/// What a figure of ours is measured by.
#[derive(Debug, Clone, Copy)]
enum Against {
    /// The best rival.
    Rivals,
    /// The best of the systems whose names begin with this.
    Named(&'static str),
    /// Nothing: the figure itself.
    Itself,
}

/// A promise about some figures of one of our systems.
struct Target {
    what: &'static str,
    system: &'static str,
    /// Beginnings of ids.
    scenarios: &'static [&'static str],
    /// All that somebody can win, if empty.
    metrics: &'static [Metric],
    against: Against,
    /// The bound of the ratio, or of the figure: the least for figures of which more is better, else the most.
    bound: f64,
}

const PACKET: &str = "snisplice-packet";
const LATENCY: &[Metric] = &[Metric::P50, Metric::P99];
const FLAT_OUT: &[&str] = &["bulk-up", "bulk-down"];

const TARGETS: [Target; 20] = [
    target("bulk each way", "snisplice-sockmap", FLAT_OUT, &[Metric::Rate], Against::Rivals, 1.15),
    target("CPU per GB", "snisplice-sockmap", FLAT_OUT, &[Metric::CpuPerGigabyte], Against::Rivals, 0.95),
    target(
        "CPU per GB at equal load",
        "snisplice-sockmap",
        &["paced"],
        &[Metric::CpuPerGigabyte],
        Against::Rivals,
        0.95,
    ),
    target("everything", "snisplice-copy", &[""], &[], Against::Rivals, 1.0),
    target(
        "download",
        "snisplice-local",
        &["samehost-down", "loopback-down"],
        &[Metric::Rate],
        Against::Rivals,
        2.5,
    ),
    target("download", "snisplice-local", &["loopback-down"], &[Metric::Rate], Against::Named("direct"), 1.0),
    target("round trips", "snisplice-sockmap", &["ping"], LATENCY, Against::Rivals, 1.0),
    target("round trips", "snisplice-copy", &["ping"], LATENCY, Against::Rivals, 1.0),
    target(
        "round trips",
        "snisplice-local",
        &["samehost-ping", "loopback-ping"],
        LATENCY,
        Against::Rivals,
        1.0,
    ),
    target(
        "new connections",
        "snisplice-auto",
        &["connects"],
        &[Metric::Connects],
        Against::Named("haproxy"),
        1.2,
    ),
    target(
        "user KiB of an idle connection",
        "snisplice-sockmap",
        &["idle"],
        &[Metric::UserPerFlow],
        Against::Itself,
        4.0,
    ),
    target("bulk each way", PACKET, FLAT_OUT, &[Metric::Rate], Against::Named("direct"), 0.9),
    target("bulk each way", PACKET, FLAT_OUT, &[Metric::Rate], Against::Rivals, 2.5),
    target("CPU per GB", PACKET, FLAT_OUT, &[Metric::CpuPerGigabyte], Against::Named("direct"), 1.15),
    target("CPU per GB", PACKET, FLAT_OUT, &[Metric::CpuPerGigabyte], Against::Rivals, 0.5),
    target("CPU per GB at equal load", PACKET, &["paced"], &[Metric::CpuPerGigabyte], Against::Rivals, 0.5),
    target("round trips", PACKET, &["ping"], LATENCY, Against::Named("direct"), 1.1),
    // 450 bytes.
    target(
        "kernel KiB of an idle connection",
        PACKET,
        &["idle"],
        &[Metric::KernelOverDirect],
        Against::Itself,
        0.44,
    ),
    // As below.
    target(
        "fds of an idle connection",
        PACKET,
        &["idle"],
        &[Metric::DescriptorsPerFlow],
        Against::Itself,
        0.005,
    ),
    // A few descriptors that come and go are no descriptors of a flow.
    target(
        "fds of an idle connection",
        "snisplice-sockmap",
        &["idle"],
        &[Metric::DescriptorsPerFlow],
        Against::Itself,
        2.005,
    ),
];

const fn target(
    what: &'static str,
    system: &'static str,
    scenarios: &'static [&'static str],
    metrics: &'static [Metric],
    against: Against,
    bound: f64,
) -> Target {
    Target { what, system, scenarios, metrics, against, bound }
}

/// How one target was met.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// What was promised.
    pub(crate) promise: String,
    pub(crate) checks: usize,
    /// The figures that fell short.
    pub(crate) missed: Vec<String>,
}

/// All targets for which anything was measured.
pub(crate) fn verdicts(results: &Results) -> Vec<Verdict> {
    TARGETS.iter().map(|target| target.judge(results)).filter(|verdict| verdict.checks > 0).collect()
}

impl Target {
    fn judge(&self, results: &Results) -> Verdict {
        let mut verdict = Verdict { promise: self.promise(), checks: 0, missed: Vec::new() };
        let begins = |scenario: &Scenario| self.scenarios.iter().any(|start| scenario.id.starts_with(start));
        for scenario in SCENARIOS.into_iter().filter(begins) {
            for metric in results.metrics(scenario.id) {
                if !self.metrics.is_empty() && !self.metrics.contains(&metric) {
                    continue;
                }
                let Some((value, other)) = self.value(results, scenario, metric) else { continue };
                verdict.checks += 1;
                let kept = match metric.better() {
                    Better::More => value >= self.bound,
                    _ => value <= self.bound,
                };
                if !kept {
                    verdict.missed.push(format!("{} {}: {value:.2}{other}", scenario.id, metric.title()));
                }
            }
        }
        verdict
    }

    /// What the bound holds for, and in words what it was compared with.
    fn value(&self, results: &Results, scenario: Scenario, metric: Metric) -> Option<(f64, String)> {
        let ours = System::named(self.system)?;
        match self.against {
            Against::Rivals => {
                let duel = Duel::of(results, scenario, metric, ours)?;
                // A bound that is out of reach of any proxy on this machine is to be seen as such.
                let bare = results.spread(scenario.id, "direct", metric);
                let bare = bare.map(|spread| ratio(spread.median, duel.rival_spread.median));
                let bare = bare.map_or(String::new(), |bare| format!(" (no proxy at all: {bare:.2})"));
                Some((duel.ratio(), format!(" of {}{bare}", duel.rival.name)))
            }
            Against::Named(start) => {
                let median = results.spread(scenario.id, ours.name, metric)?.median;
                let (other, spread) =
                    best(results, scenario, metric, |system| system.name.starts_with(start))?;
                Some((ratio(median, spread.median), format!(" of {}", other.name)))
            }
            Against::Itself => Some((results.spread(scenario.id, ours.name, metric)?.median, String::new())),
        }
    }

    fn promise(&self) -> String {
        let Self { what, system, bound, .. } = self;
        match self.against {
            Against::Rivals if *bound == 1.0 => format!("{system}: {what} no worse than the best rival"),
            Against::Rivals => format!("{system}: {what}, {bound} of the best rival"),
            Against::Named(start) => format!("{system}: {what}, {bound} of {start}"),
            Against::Itself => format!("{system}: {what}, at most {bound:.2}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn a_target_is_missed_by_the_figure_that_falls_short() {
        let results = results(&[
            ("bulk-up-1", "snisplice-sockmap", Metric::Rate, &[11.4]),
            ("bulk-up-1", "nginx", Metric::Rate, &[10.0]),
            ("bulk-down-1", "snisplice-sockmap", Metric::Rate, &[11.6]),
            ("bulk-down-1", "nginx", Metric::Rate, &[10.0]),
            ("bulk-up-32", "snisplice-sockmap", Metric::Rate, &[10.5]),
            ("bulk-up-32", "nginx", Metric::Rate, &[10.0]),
            ("bulk-up-32", "direct", Metric::Rate, &[11.0]),
            ("idle", "snisplice-sockmap", Metric::UserPerFlow, &[3.9]),
            ("connects", "snisplice-auto", Metric::Connects, &[1000.0]),
            ("connects", "haproxy", Metric::Connects, &[800.0]),
            ("connects", "nginx", Metric::Connects, &[5000.0]),
        ]);
        let verdicts = verdicts(&results);
        let of = |start: &str| verdicts.iter().find(|verdict| verdict.promise.starts_with(start)).unwrap();
        let bulk = of("snisplice-sockmap: bulk each way");
        let missed =
            ["bulk-up-1 Gbit/s: 1.14 of nginx", "bulk-up-32 Gbit/s: 1.05 of nginx (no proxy at all: 1.10)"];
        assert_eq!((bulk.checks, bulk.missed.as_slice()), (3, missed.map(str::to_owned).as_slice()));
        assert!(of("snisplice-sockmap: user KiB").missed.is_empty());
        assert!(of("snisplice-auto: new connections").missed.is_empty(), "compared with HAProxy alone");
        assert_eq!(verdicts.len(), 3, "what was not measured is no target met");
    }
}
