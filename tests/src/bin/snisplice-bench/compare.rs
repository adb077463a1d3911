//! Who is better: comparisons of medians.

use crate::plan::{SCENARIOS, Scenario};
use crate::results::Results;
use crate::stats::Spread;
use crate::system::{SYSTEMS, System};
use crate::values::{Better, Metric};

/// One of our figures beside the best one of a rival.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Duel {
    pub(crate) scenario: Scenario,
    pub(crate) metric: Metric,
    pub(crate) ours: System,
    pub(crate) our_spread: Spread,
    pub(crate) rival: System,
    pub(crate) rival_spread: Spread,
}

impl Duel {
    /// `None` where one of both was not measured, or where nobody wins.
    pub(crate) fn of(results: &Results, scenario: Scenario, metric: Metric, ours: System) -> Option<Self> {
        let (rival, rival_spread) = best(results, scenario, metric, System::is_rival)?;
        let our_spread = results.spread(scenario.id, ours.name, metric)?;
        Some(Self { scenario, metric, ours, our_spread, rival, rival_spread })
    }

    /// Our median divided by the rival's.
    pub(crate) fn ratio(&self) -> f64 {
        ratio(self.our_spread.median, self.rival_spread.median)
    }

    pub(crate) fn is_lost(&self) -> bool {
        match self.metric.better() {
            Better::More => self.ratio() < 1.0,
            Better::Less => self.ratio() > 1.0,
            Better::Neither => false,
        }
    }

    /// True when some rounds say otherwise.
    pub(crate) fn is_close(&self) -> bool {
        self.our_spread.min <= self.rival_spread.max && self.rival_spread.min <= self.our_spread.max
    }
}

/// One divided by the other. Of two figures that are not above zero both are as good.
pub(crate) fn ratio(one: f64, other: f64) -> f64 {
    match (one > 0.0, other > 0.0) {
        (_, true) => one.max(0.0) / other,
        (true, false) => f64::INFINITY,
        (false, false) => 1.0,
    }
}

/// The system with the best median among those that `counts` holds for.
pub(crate) fn best(
    results: &Results,
    scenario: Scenario,
    metric: Metric,
    counts: impl Fn(System) -> bool,
) -> Option<(System, Spread)> {
    let systems = SYSTEMS.into_iter().filter(|&system| counts(system));
    let spreads =
        systems.filter_map(|system| Some((system, results.spread(scenario.id, system.name, metric)?)));
    let by_median =
        |one: &(System, Spread), other: &(System, Spread)| one.1.median.total_cmp(&other.1.median);
    match metric.better() {
        Better::More => spreads.max_by(by_median),
        Better::Less => spreads.min_by(by_median),
        Better::Neither => None,
    }
}

/// All comparisons of our systems with the best rival, in the order of the tables.
pub(crate) fn duels(results: &Results) -> Vec<Duel> {
    let mut duels = Vec::new();
    for scenario in SCENARIOS {
        for metric in results.metrics(scenario.id) {
            let ours = SYSTEMS.into_iter().filter(|system| system.is_ours());
            duels.extend(ours.filter_map(|ours| Duel::of(results, scenario, metric, ours)));
        }
    }
    duels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn the_best_rival_depends_on_the_kind_of_figure() {
        let results = results(&[
            ("bulk-up-1", "haproxy", Metric::Rate, &[9.0, 10.0, 11.0]),
            ("bulk-up-1", "nginx", Metric::Rate, &[8.0, 8.0, 90.0]),
            ("bulk-up-1", "direct", Metric::Rate, &[30.0]),
            ("bulk-up-1", "snisplice-copy", Metric::Rate, &[9.5, 9.0, 8.5]),
            ("bulk-up-1", "haproxy", Metric::CpuPerGigabyte, &[1.0]),
            ("bulk-up-1", "nginx", Metric::CpuPerGigabyte, &[0.9]),
            ("bulk-up-1", "snisplice-copy", Metric::CpuPerGigabyte, &[0.45]),
        ]);
        let duels = duels(&results);
        let seen: Vec<_> = duels
            .iter()
            .map(|duel| (duel.metric, duel.rival.name, duel.ratio(), duel.is_lost(), duel.is_close()))
            .collect();
        let expected = [
            (Metric::Rate, "haproxy", 0.9, true, true),
            (Metric::CpuPerGigabyte, "nginx", 0.5, false, false),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn ratios_of_nothing_are_sane() {
        assert_eq!(ratio(1.0, 2.0), 0.5);
        assert_eq!(ratio(-1.0, 2.0), 0.0);
        assert_eq!(ratio(1.0, 0.0), f64::INFINITY);
        assert_eq!(ratio(-0.1, 0.0), 1.0);
    }
}
