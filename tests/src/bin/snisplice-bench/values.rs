//! What is measured, and the figures of one measurement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A kind of figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metric {
    Rate,
    /// That of a load with a pace.
    PacedRate,
    CpuPerGigabyte,
    P50,
    P99,
    P999,
    RoundTrips,
    MicrosPerTrip,
    Connects,
    FirstByteP50,
    FirstByteP99,
    MicrosPerConnect,
    HandshakeP50,
    HandshakeP99,
    UserPerFlow,
    KernelOverDirect,
    KernelPerFlow,
    DescriptorsPerFlow,
    Flows,
    StormMillis,
    Retries,
    KernelShare,
    Fallbacks,
    Disturbance,
}

/// Which of two figures is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
    /// A fact that nobody wins.
    Neither,
}

impl Metric {
    /// What a column is called.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Rate | Self::PacedRate => "Gbit/s",
            Self::CpuPerGigabyte => "CPU s/GB",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::P999 => "p99.9 µs",
            Self::RoundTrips => "trips/s",
            Self::MicrosPerTrip => "CPU µs/trip",
            Self::Connects => "conn/s",
            Self::FirstByteP50 => "p50 ms",
            Self::FirstByteP99 => "p99 ms",
            Self::MicrosPerConnect => "CPU µs/conn",
            Self::HandshakeP50 => "p50 ms",
            Self::HandshakeP99 => "p99 ms",
            Self::UserPerFlow => "user KiB/conn",
            Self::KernelOverDirect => "kernel KiB/conn",
            Self::KernelPerFlow => "kernel, all ends",
            Self::DescriptorsPerFlow => "fds/conn",
            Self::Flows => "connections",
            Self::StormMillis => "all back ms",
            Self::Retries => "retries",
            Self::KernelShare => "kernel share",
            Self::Fallbacks => "fell back",
            Self::Disturbance => "disturbance",
        }
    }

    pub(crate) fn better(self) -> Better {
        match self {
            Self::Rate | Self::RoundTrips | Self::Connects => Better::More,
            Self::PacedRate
            | Self::KernelShare
            | Self::Fallbacks
            | Self::Retries
            | Self::Flows
            | Self::KernelPerFlow
            | Self::Disturbance => Better::Neither,
            _ => Better::Less,
        }
    }

    /// False for what is kept in the file only.
    pub(crate) fn is_shown(self) -> bool {
        self != Self::Disturbance
    }

    /// A figure for people: three significant digits.
    pub(crate) fn show(self, value: f64) -> String {
        if matches!(self, Self::KernelShare | Self::Disturbance) {
            return format!("{:.1} %", value * 100.0);
        }
        match value.abs() {
            0.0 => "0".to_owned(),
            100.0.. => format!("{value:.0}"),
            10.0.. => format!("{value:.1}"),
            1.0.. => format!("{value:.2}"),
            _ => format!("{value:.3}"),
        }
    }
}

/// The figures of one measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Values(BTreeMap<Metric, f64>);

impl Values {
    pub(crate) fn set(&mut self, metric: Metric, value: f64) {
        self.0.insert(metric, value);
    }

    pub(crate) fn get(&self, metric: Metric) -> Option<f64> {
        self.0.get(&metric).copied()
    }

    /// The kinds of figures that there are.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = Metric> {
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let shown = [0.0, 0.1234, 1.234, 12.34, 123.4, 12_345.6].map(|value| Metric::Rate.show(value));
        assert_eq!(shown, ["0", "0.123", "1.23", "12.3", "123", "12346"]);
        assert_eq!(Metric::KernelShare.show(0.998), "99.8 %");
    }
}
