//! What was measured, and what is said of it.

use std::fmt::Write as _;

/// Nanoseconds of each program on a packet that is not ours.
const NOT_OURS: f64 = 60.0;
/// Microseconds of the daemon for a hand-over.
const HANDOVER: f64 = 200.0;
/// Bytes of kernel memory of an idle flow.
const KERNEL_BYTES: f64 = 450.0;

/// Samples by name, in the order in which they were first taken.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

#[derive(Debug)]
struct Figure {
    name: &'static str,
    /// What the median may be at most.
    most: Option<f64>,
    samples: Vec<f64>,
}

/// Milliseconds between two signs of life of the daemon.
const BEAT: f64 = 2000.0;

/// What the median of a figure may be at most, if that was promised.
fn bound(name: &str) -> Option<f64> {
    let bounds = [
        ("not ours", NOT_OURS),
        ("µs of the daemon", HANDOVER),
        ("bytes of kernel", KERNEL_BYTES),
        ("from beat to beat", BEAT),
    ];
    bounds.into_iter().find(|(part, _)| name.contains(part)).map(|(_, most)| most)
}

impl Figures {
    pub(crate) fn add(&mut self, name: &'static str, value: f64) {
        match self.0.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.samples.push(value),
            None => self.0.push(Figure { name, most: bound(name), samples: vec![value] }),
        }
    }

    pub(crate) fn table(&self) -> String {
        let mut out = format!("\n{:<72}{:>10}{:>10}{:>10}\n", "", "median", "least", "most");
        for figure in &self.0 {
            let [median, least, most] = figure.spread();
            let _ = writeln!(out, "{:<72}{median:>10.1}{least:>10.1}{most:>10.1}", figure.name);
        }
        out.push('\n');
        out
    }

    /// Each target, and whether it is met.
    pub(crate) fn targets(&self) -> Vec<(String, bool)> {
        let promised = self.0.iter().filter_map(|figure| Some((figure, figure.most?)));
        promised
            .map(|(figure, most)| {
                let [median, ..] = figure.spread();
                (format!("{}: {median:.1}, at most {most} wanted", figure.name), median <= most)
            })
            .collect()
    }
}

impl Figure {
    /// Median, least and most. There is at least one sample.
    fn spread(&self) -> [f64; 3] {
        let mut samples = self.samples.clone();
        samples.sort_unstable_by(f64::total_cmp);
        let at = |at: usize| samples.get(at).copied().unwrap_or(f64::NAN);
        [at(samples.len() / 2), at(0), at(samples.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_missed_by_its_median() {
        let mut figures = Figures::default();
        for value in [50.0, 61.0, 62.0] {
            figures.add("ingress, not ours", value);
        }
        for value in [150.0, 170.0, 900.0] {
            figures.add("hand-over: µs of the daemon", value);
        }
        figures.add("of no target", 1.0);
        let met: Vec<_> = figures.targets().into_iter().map(|(_, is_met)| is_met).collect();
        assert_eq!(met, [false, true]);
        assert!(figures.table().contains("of no target"));
    }
}
