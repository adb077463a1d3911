//! The figures of a run: what was measured, of what, on what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stats::Spread;
use crate::values::{Metric, Values};

/// The share of the machine that others may use while a figure is taken.
pub(crate) const DISTURBED: f64 = 0.05;

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) scenario: String,
    pub(crate) system: String,
    /// From 1.
    pub(crate) round: usize,
    pub(crate) outcome: Outcome,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Measured(Values),
    /// Why there are no figures.
    Failed(String),
}

impl Outcome {
    pub(crate) fn values(&self) -> Option<&Values> {
        match self {
            Self::Measured(values) => Some(values),
            Self::Failed(_) => None,
        }
    }
}

/// Everything that a report is made from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Facts about the machine and the run.
    pub(crate) facts: BTreeMap<String, String>,
    /// Versions of the systems that could be measured.
    pub(crate) versions: BTreeMap<String, String>,
    /// The configuration of each system in the first placement that it was measured in.
    #[serde(default)]
    pub(crate) configurations: BTreeMap<String, String>,
    /// Systems that could not be measured, and why.
    pub(crate) not_measured: BTreeMap<String, String>,
    /// What went wrong besides measurements, such as a system that did not stop as it should.
    #[serde(default)]
    pub(crate) complaints: Vec<String>,
    /// True for a run that is too short for claims.
    pub(crate) quick: bool,
    pub(crate) samples: Vec<Sample>,
}

impl Results {
    /// The figures of all rounds of one measurement.
    pub(crate) fn spread(&self, scenario: &str, system: &str, metric: Metric) -> Option<Spread> {
        let values: Vec<f64> =
            self.measured(scenario, system).filter_map(|values| values.get(metric)).collect();
        Spread::of(&values)
    }

    fn measured<'a>(&'a self, scenario: &'a str, system: &'a str) -> impl Iterator<Item = &'a Values> {
        let of_both = move |sample: &&Sample| sample.scenario == scenario && sample.system == system;
        self.samples.iter().filter(of_both).filter_map(|sample| sample.outcome.values())
    }

    /// The kinds of figures of a scenario, in the order of [`Metric`].
    pub(crate) fn metrics(&self, scenario: &str) -> Vec<Metric> {
        let of_scenario = self.samples.iter().filter(|sample| sample.scenario == scenario);
        let mut metrics: Vec<Metric> =
            of_scenario.filter_map(|sample| sample.outcome.values()).flat_map(Values::metrics).collect();
        metrics.sort();
        metrics.dedup();
        metrics.retain(|metric| metric.is_shown());
        metrics
    }

    /// Takes what the direct way holds in the kernel from what each system does: what is left is the proxy's.
    pub(crate) fn settle_kernel_memory(&mut self) {
        let direct: BTreeMap<(String, usize), f64> = self
            .samples
            .iter()
            .filter(|sample| sample.system == "direct")
            .filter_map(|sample| {
                let held = sample.outcome.values()?.get(Metric::KernelPerFlow)?;
                Some(((sample.scenario.clone(), sample.round), held))
            })
            .collect();
        for sample in &mut self.samples {
            if let (Outcome::Measured(values), Some(direct)) =
                (&mut sample.outcome, direct.get(&(sample.scenario.clone(), sample.round)))
                && let Some(all) = values.get(Metric::KernelPerFlow)
            {
                values.set(Metric::KernelOverDirect, all - direct);
            }
        }
    }

    /// Adds another run of the same machine. Its rounds follow those that are there.
    pub(crate) fn add(&mut self, other: Self) {
        let rounds = self.samples.iter().map(|sample| sample.round).max().unwrap_or(0);
        let later = |sample: Sample| Sample { round: rounds + sample.round, ..sample };
        self.samples.extend(other.samples.into_iter().map(later));
        for (fact, value) in other.facts {
            let known = self.facts.entry(fact).or_default();
            // Such as the date, and the time for each figure.
            if known.is_empty() {
                *known = value;
            } else if known.split("; ").all(|one| one != value) {
                *known = format!("{known}; {value}");
            }
        }
        self.versions.extend(other.versions);
        self.configurations.extend(other.configurations);
        self.not_measured.extend(other.not_measured);
        self.complaints.extend(other.complaints);
        self.quick |= other.quick;
    }

    /// What failed, and why: a system that did not start fails in all scenarios for one reason.
    pub(crate) fn failures_by_reason(&self) -> Vec<(String, String)> {
        let mut reasons: BTreeMap<(&str, usize, &str), Vec<&str>> = BTreeMap::new();
        for (sample, why) in self.failures() {
            let key = (sample.system.as_str(), sample.round, why);
            reasons.entry(key).or_default().push(&sample.scenario);
        }
        let words = |((system, round, why), scenarios): ((&str, usize, &str), Vec<&str>)| {
            (format!("{system} in round {round}, {}", scenarios.join(", ")), why.to_owned())
        };
        reasons.into_iter().map(words).collect()
    }

    /// Measurements during which others used the machine.
    pub(crate) fn disturbed(&self) -> usize {
        let shares =
            self.samples.iter().filter_map(|sample| sample.outcome.values()?.get(Metric::Disturbance));
        shares.filter(|&share| share > DISTURBED).count()
    }

    /// Measurements that failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&Sample, &str)> {
        self.samples.iter().filter_map(|sample| match &sample.outcome {
            Outcome::Measured(_) => None,
            Outcome::Failed(why) => Some((sample, why.as_str())),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Results with these figures: scenario, system, kind, and one value for each round.
    pub(crate) fn results(figures: &[(&str, &str, Metric, &[f64])]) -> Results {
        let mut results = Results::default();
        for &(scenario, system, metric, rounds) in figures {
            for (round, &value) in (1..).zip(rounds) {
                let mut values = Values::default();
                values.set(metric, value);
                let outcome = Outcome::Measured(values);
                let (scenario, system) = (scenario.to_owned(), system.to_owned());
                results.samples.push(Sample { scenario, system, round, outcome });
            }
        }
        results
    }

    #[test]
    fn results_survive_the_file() {
        let mut before = results(&[("bulk-up-1", "haproxy", Metric::Rate, &[1.0, 2.5])]);
        let (scenario, system) = ("idle".to_owned(), "nginx".to_owned());
        before.samples.push(Sample {
            scenario,
            system,
            round: 1,
            outcome: Outcome::Failed("why".to_owned()),
        });
        let text = serde_json::to_string(&before).unwrap();
        let after: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(after.spread("bulk-up-1", "haproxy", Metric::Rate).unwrap().median, 1.75);
        assert_eq!(after.failures_by_reason(), [("nginx in round 1, idle".to_owned(), "why".to_owned())]);
    }

    #[test]
    fn what_the_peers_hold_is_not_the_proxys() {
        let mut results = results(&[
            ("idle", "direct", Metric::KernelPerFlow, &[8.0, 7.0]),
            ("idle", "haproxy", Metric::KernelPerFlow, &[17.0, 18.0]),
        ]);
        results.settle_kernel_memory();
        let own = results.spread("idle", "haproxy", Metric::KernelOverDirect).unwrap();
        assert_eq!((own.min, own.max), (9.0, 11.0));
    }

    #[test]
    fn runs_are_put_together_round_by_round() {
        let mut one = results(&[("bulk-up-1", "haproxy", Metric::Rate, &[1.0, 2.0])]);
        one.add(results(&[("bulk-up-1", "haproxy", Metric::Rate, &[6.0])]));
        let rounds: Vec<_> = one.samples.iter().map(|sample| sample.round).collect();
        assert_eq!(rounds, [1, 2, 3]);
        assert_eq!(one.spread("bulk-up-1", "haproxy", Metric::Rate).unwrap().max, 6.0);
    }
}
