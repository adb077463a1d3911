//! Metrics that are read from the kernel and the system when they are asked for.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Kernel;
use crate::hub::Hub;

pub(super) struct Readings {
    pub(super) hub: Arc<Hub>,
    pub(super) kernel: Arc<Kernel>,
}

impl fmt::Debug for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readings").field("kernel", &self.kernel).finish_non_exhaustive()
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let ready = ConstGauge::new(i64::from(self.kernel.unavailable(&self.hub).is_none()));
        let help = "1 where splicing by sockmap works here";
        let metric = encoder.encode_descriptor("sockmap_available", help, None, ready.metric_type())?;
        ready.encode(metric)?;
        let Ok(sockmap) = &self.kernel.sockmap else { return Ok(()) };
        let counters = sockmap.counters();
        let readings = [
            ("kernel_redirected_bytes", "Bytes that the kernel carried", counters.redirected_bytes),
            ("kernel_redirected_segments", "Segments that the kernel carried", counters.redirected_segments),
            ("kernel_passed_bytes", "Bytes of spliced sockets left to userspace", counters.passed_bytes),
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
