//! Metrics that are read from the kernel and the system when they are asked for.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Kernel;

#[derive(Debug)]
pub(super) struct Readings(pub(super) Arc<Kernel>);

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let local = matches!(self.0.local, Some(Ok(_)));
        let gauges = [
            ("sockmap_available", "1 where splicing by sockmap works here", self.0.sockmap.is_ok()),
            ("local_available", "1 where servers on this host can be captured", local),
        ];
        for (name, help, ready) in gauges {
            let gauge = ConstGauge::new(i64::from(ready));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        let Ok(sockmap) = &self.0.sockmap else { return Ok(()) };
        let counters = sockmap.counters();
        let readings = [
            ("kernel_redirected_bytes", "Bytes that the kernel carried", counters.redirected_bytes),
            ("kernel_redirected_segments", "Segments that the kernel carried", counters.redirected_segments),
            ("kernel_passed_bytes", "Bytes of spliced sockets left to userspace", counters.passed_bytes),
            ("kernel_bypassed_bytes", "Bytes past a loopback connection", counters.bypassed_bytes),
            ("kernel_redirect_failures", "Redirects that found no target", counters.redirect_failures),
            ("kernel_unknown_sockets", "Segments of sockets without a direction", counters.unknown_sockets),
            ("kernel_credit_stops", "Times that a target had no room for more", counters.credit_stops),
            ("kernel_lost_events", "Events that did not fit into the ring", counters.lost_events),
        ];
        for (name, help, value) in readings {
            let counter = ConstCounter::new(value);
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}
