//! The figures of a run: what was measured, of what, on what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stats::Spread;
use crate::values::{Metric, Values};

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

/// Everything that a report is made from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Facts about the machine and the run.
    pub(crate) facts: BTreeMap<String, String>,
    /// Versions of the systems that could be measured.
    pub(crate) versions: BTreeMap<String, String>,
    /// Systems that could not be measured, and why.
    pub(crate) not_measured: BTreeMap<String, String>,
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
        self.samples.iter().filter(of_both).filter_map(|sample| match &sample.outcome {
            Outcome::Measured(values) => Some(values),
            Outcome::Failed(_) => None,
        })
    }

    /// The kinds of figures of a scenario, in the order of [`Metric`].
    pub(crate) fn metrics(&self, scenario: &str) -> Vec<Metric> {
        let of_scenario = self.samples.iter().filter(|sample| sample.scenario == scenario);
        let mut metrics: Vec<Metric> = of_scenario
            .flat_map(|sample| match &sample.outcome {
                Outcome::Measured(values) => values.metrics().collect(),
                Outcome::Failed(_) => Vec::new(),
            })
            .collect();
        metrics.sort();
        metrics.dedup();
        metrics
    }

    /// Measurements that failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&Sample, &str)> {
        self.samples.iter().filter_map(|sample| match &sample.outcome {
            Outcome::Measured(_) => None,
            Outcome::Failed(why) => Some((sample, why.as_str())),
        })
    }
}
