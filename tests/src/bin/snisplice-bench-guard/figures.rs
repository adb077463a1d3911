//! What was measured, and what is said of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Targets: nanoseconds above a bare program, and how many times nftables' rate.
const PASS_ABOVE: f64 = 25.0;
const DROP_ABOVE: f64 = 60.0;
const TIMES_NFTABLES: f64 = 4.0;

/// Samples by kind and name, in the order in which they were first taken.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    order: Vec<Name>,
    samples: BTreeMap<Name, Vec<f64>>,
}

/// What was measured: how, and of what.
pub(crate) type Name = (Kind, &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Nanoseconds of the program alone (`BPF_PROG_TEST_RUN`), the least of the parts of a round.
    Program,
    /// Nanoseconds from the driver to the verdict, packets being injected at the interface (with live frames).
    Receive,
    /// Packets in a second from one end of a veth pair to the verdict at the other.
    Wire,
}

impl Kind {
    const fn title(self) -> &'static str {
        match self {
            Self::Program => "program alone, ns for each packet, least of 8 parts",
            Self::Receive => "injected at the interface, ns for each packet",
            Self::Wire => "from the other end of a veth pair, 1000 packets/s",
        }
    }
}

impl Figures {
    pub(crate) fn add(&mut self, kind: Kind, name: &'static str, value: f64) {
        if !self.samples.contains_key(&(kind, name)) {
            self.order.push((kind, name));
        }
        self.samples.entry((kind, name)).or_default().push(value);
    }

    /// Median, least and most.
    fn spread(&self, name: Name) -> Option<[f64; 3]> {
        let mut samples = self.samples.get(&name)?.clone();
        samples.sort_unstable_by(f64::total_cmp);
        Some([*samples.get(samples.len() / 2)?, *samples.first()?, *samples.last()?])
    }

    fn median(&self, kind: Kind, name: &'static str) -> Option<f64> {
        self.spread((kind, name)).map(|[median, ..]| median)
    }

    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        for kind in [Kind::Program, Kind::Receive, Kind::Wire] {
            let _ = writeln!(out, "\n{:<52}{:>10}{:>10}{:>10}", kind.title(), "median", "least", "most");
            for &name in self.order.iter().filter(|(own, _)| *own == kind) {
                if let Some([median, least, most]) = self.spread(name) {
                    let _ = writeln!(out, "  {:<50}{median:>10.1}{least:>10.1}{most:>10.1}", name.1);
                }
            }
        }
        out.push('\n');
        out
    }

    /// Each target, and whether it is met. What could not be measured is none that is.
    pub(crate) fn targets(&self) -> Vec<(String, bool)> {
        let above = |name: &'static str, bare: &'static str| {
            Some(self.median(Kind::Program, name)? - self.median(Kind::Program, bare)?)
        };
        let mut targets = Vec::new();
        for (name, bare, most) in [
            ("IPv4, another port: pass", "bare XDP_PASS", PASS_ABOVE),
            ("IPv6, another port: pass", "bare XDP_PASS", PASS_ABOVE),
            ("IPv4, a listener's connection: pass", "bare XDP_PASS", PASS_ABOVE),
            ("IPv6, a listener's connection: pass", "bare XDP_PASS", PASS_ABOVE),
            ("IPv4, on the deny list: drop", "bare XDP_DROP", DROP_ABOVE),
            ("IPv6, on the deny list: drop", "bare XDP_DROP", DROP_ABOVE),
            ("IPv4, bucket of the source empty: drop", "bare XDP_DROP", DROP_ABOVE),
            ("IPv6, bucket of the source empty: drop", "bare XDP_DROP", DROP_ABOVE),
        ] {
            let found = above(name, bare);
            let text = found.map_or("not measured".to_owned(), |above| format!("{above:.1} ns above {bare}"));
            targets.push((
                format!("{name}: {text}, at most {most} wanted"),
                found.is_some_and(|above| above <= most),
            ));
        }
        for (own, other) in [("guard, deny list", "nftables, deny set"), ("guard, bucket", "nftables, meter")]
        {
            let times = self.median(Kind::Receive, own).zip(self.median(Kind::Receive, other));
            let times = times.map(|(own, other)| other / own);
            let text = times.map_or("not measured".to_owned(), |times| format!("{times:.1} times the rate"));
            let target = format!("{own} against {other}: {text}, at least {TIMES_NFTABLES} wanted");
            targets.push((target, times.is_some_and(|times| times >= TIMES_NFTABLES)));
        }
        targets
    }
}
