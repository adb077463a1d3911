//! Which figures become pictures.

use super::svg::{Bar, Chart, Look, Panel, render};
use crate::plan::Scenario;
use crate::results::Results;
use crate::system::{SYSTEMS, System};
use crate::values::{Better, Metric};

/// A picture: its file, its title, and the figures of its panels.
pub(super) struct Subject {
    pub(super) file: &'static str,
    pub(super) title: &'static str,
    pub(super) panels: &'static [(&'static str, Metric)],
}

const PLOTS: [Subject; 8] = [
    Subject {
        file: "bulk.svg",
        title: "Bulk transfers between three hosts",
        panels: &[
            ("bulk-up-1", Metric::Rate),
            ("bulk-down-1", Metric::Rate),
            ("bulk-up-32", Metric::Rate),
            ("bulk-down-32", Metric::Rate),
            ("bulk-both-1", Metric::Rate),
            ("bulk-both-32", Metric::Rate),
        ],
    },
    Subject {
        file: "cpu.svg",
        title: "CPU time of the whole machine for a gigabyte, peers included",
        panels: &[
            ("paced-up", Metric::CpuPerGigabyte),
            ("paced-down", Metric::CpuPerGigabyte),
            ("bulk-up-1", Metric::CpuPerGigabyte),
            ("bulk-down-1", Metric::CpuPerGigabyte),
        ],
    },
    Subject {
        file: "latency.svg",
        title: "Round trips of 64 bytes",
        panels: &[
            ("ping-1", Metric::P50),
            ("ping-1", Metric::P99),
            ("ping-64", Metric::P50),
            ("ping-64", Metric::P99),
            ("ping-1-busy", Metric::P50),
            ("ping-1-busy", Metric::P99),
            ("ping-64-busy", Metric::P50),
            ("ping-64-busy", Metric::P99),
        ],
    },
    Subject {
        file: "connects.svg",
        title: "New connections",
        panels: &[("connects", Metric::Connects), ("connects", Metric::FirstByteP99)],
    },
    Subject {
        file: "onehost.svg",
        title: "With the backend on the proxy's host, and with all on one host",
        panels: &[
            ("samehost-up", Metric::Rate),
            ("samehost-down", Metric::Rate),
            ("loopback-up", Metric::Rate),
            ("loopback-down", Metric::Rate),
            ("samehost-ping", Metric::P50),
            ("loopback-ping", Metric::P50),
        ],
    },
    Subject {
        file: "tls.svg",
        title: "With real TLS at both ends",
        panels: &[("tls-down", Metric::Rate), ("tls-handshake", Metric::HandshakeP50)],
    },
    Subject {
        file: "idle.svg",
        title: "Memory of an idle connection",
        panels: &[("idle", Metric::UserPerFlow), ("idle", Metric::KernelOverDirect)],
    },
    Subject {
        file: "storm.svg",
        title: "4000 clients lose their connections and come back at once",
        panels: &[("storm", Metric::StormMillis)],
    },
];

/// A picture that is ready to be written.
pub(crate) struct Picture {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) svg: String,
}

/// All pictures of single datapaths for which there are figures.
pub(crate) fn pictures(results: &Results) -> Vec<Picture> {
    PLOTS.iter().filter_map(|subject| picture(results, subject, |system| Some(system.name))).collect()
}

/// One picture, of the systems that have a name; none without figures.
pub(super) fn picture(
    results: &Results,
    subject: &Subject,
    name_of: impl Fn(System) -> Option<&'static str>,
) -> Option<Picture> {
    let panels = subject.panels.iter();
    let panels: Vec<Panel> =
        panels.filter_map(|&(id, metric)| panel(results, id, metric, &name_of)).collect();
    if panels.is_empty() {
        return None;
    }
    let note = "Median of the rounds; the orange line goes from the least to the most.".to_owned();
    let svg = render(&Chart { title: subject.title.to_owned(), note, panels });
    Some(Picture { file: subject.file, title: subject.title, svg })
}

/// The best on top.
fn panel(
    results: &Results,
    id: &str,
    metric: Metric,
    name_of: impl Fn(System) -> Option<&'static str>,
) -> Option<Panel> {
    let scenario = Scenario::with_id(id)?;
    let mut bars: Vec<Bar> = SYSTEMS
        .into_iter()
        .filter_map(|system| {
            let name = name_of(system)?.to_owned();
            let spread = results.spread(id, system.name, metric)?;
            let look = match system {
                system if system.is_ours() => Look::Ours,
                system if system.is_rival() => Look::Rival,
                _ => Look::Direct,
            };
            let label = metric.show(spread.median);
            Some(Bar { name, look, value: spread.median, min: spread.min, max: spread.max, label })
        })
        .collect();
    let which = match metric.better() {
        Better::More => "more is better",
        _ => "less is better",
    };
    bars.sort_by(|one, other| match metric.better() {
        Better::More => other.value.total_cmp(&one.value),
        _ => one.value.total_cmp(&other.value),
    });
    let axis = format!("{}, {which}", metric.title());
    (!bars.is_empty()).then(|| Panel { title: scenario.title.to_owned(), axis, bars })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SCENARIOS;
    use crate::results::tests::results;

    #[test]
    fn every_panel_shows_a_scenario_that_there_is() {
        let ids = SCENARIOS.map(|scenario| scenario.id);
        for (id, _) in PLOTS.iter().flat_map(|plot| plot.panels) {
            assert!(ids.contains(id), "{id}");
        }
    }

    #[test]
    fn the_best_bar_is_on_top_and_pictures_without_figures_are_left_out() {
        let results = results(&[
            ("ping-1", "haproxy", Metric::P50, &[50.0]),
            ("ping-1", "snisplice-copy", Metric::P50, &[40.0, 41.0, 39.0]),
            ("bulk-up-1", "haproxy", Metric::Rate, &[50.0]),
            ("bulk-up-1", "snisplice-copy", Metric::Rate, &[40.0]),
        ]);
        let pictures = pictures(&results);
        let files: Vec<_> = pictures.iter().map(|picture| picture.file).collect();
        assert_eq!(files, ["bulk.svg", "latency.svg"]);
        let before = |svg: &str, one: &str, other: &str| svg.find(one).unwrap() < svg.find(other).unwrap();
        assert!(before(&pictures[0].svg, ">haproxy<", ">snisplice-copy<"));
        assert!(before(&pictures[1].svg, ">snisplice-copy<", ">haproxy<"));
    }
}
