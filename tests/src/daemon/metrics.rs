//! The OpenMetrics text format, as far as the daemon uses it.

use std::str::FromStr;

use anyhow::{Context as _, Error, Result, ensure};

/// All samples of one scrape.
#[derive(Debug, Clone)]
pub struct Metrics(Vec<Sample>);

/// One line of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name, with its suffix.
    pub name: String,
    /// Label names and values.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// The sum of all samples of this name that have these labels, and any others; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &Sample, (key, value): &(&str, &str)| {
            sample.labels.iter().any(|(own_key, own_value)| own_key == key && own_value == value)
        };
        self.samples_of(name)
            .into_iter()
            .filter(|sample| labels.iter().all(|label| has(sample, label)))
            .map(|sample| sample.value)
            .sum()
    }

    /// The same of counters of whole things, below 2^53.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, not negative, and below 2^53"
    )]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels) as u64
    }

    /// All samples of this name.
    pub fn samples_of(&self, name: &str) -> Vec<&Sample> {
        self.0.iter().filter(|sample| sample.name == name).collect()
    }
}

impl FromStr for Metrics {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(text.trim_end().ends_with("# EOF"), "the scrape does not end with `# EOF`");
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = lines.map(|line| parse(line).with_context(|| format!("not a sample: {line:?}")));
        Ok(Self(samples.collect::<Result<_>>()?))
    }
}

fn parse(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}')?)?),
        None => (series, Vec::new()),
    };
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

/// Label values of the daemon come from the configuration and hold neither quotes nor commas.
fn parse_labels(text: &str) -> Option<Vec<(String, String)>> {
    let label = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some((key.to_owned(), value.strip_prefix('"')?.strip_suffix('"')?.to_owned()))
    };
    text.split(',').filter(|pair| !pair.is_empty()).map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = "\
# TYPE snisplice_bytes counter
snisplice_bytes_total{route=\"web\",direction=\"in\"} 10
snisplice_bytes_total{route=\"web\",direction=\"out\"} 20
snisplice_bytes_total{route=\"polling\",direction=\"in\"} 400
snisplice_kernel_redirected_bytes_total 7
# EOF
";

    #[test]
    fn samples_are_summed_by_label() {
        let metrics: Metrics = SCRAPE.parse().unwrap();
        let sum = |labels| metrics.sum("snisplice_bytes_total", labels);
        assert_eq!(sum(&[]), 430.0);
        assert_eq!(sum(&[("route", "web")]), 30.0);
        assert_eq!(sum(&[("direction", "in"), ("route", "web")]), 10.0);
        assert_eq!(sum(&[("route", "none")]), 0.0);
        assert_eq!(metrics.sum("snisplice_kernel_redirected_bytes_total", &[]), 7.0);
    }

    #[test]
    fn a_cut_scrape_and_a_broken_line_are_errors() {
        assert!(SCRAPE.replace("# EOF\n", "").parse::<Metrics>().is_err());
        assert!(SCRAPE.replace(" 7", " seven").parse::<Metrics>().is_err());
    }
}
