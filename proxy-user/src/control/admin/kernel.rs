//! Metrics that are read from the kernel and the system when they are asked for.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::hub::Hub;
use crate::kernel::{Kernel, KernelCounters, PacketCounters, Sockmap};

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
        let connection_limit = &self.hub.connection_limit;
        let available = self.kernel.unavailable(&self.hub).is_none();
        let local = available && matches!(self.kernel.local, Some(Ok(_)));
        let packet = self.kernel.packet_unavailable().is_none();
        let gauges = [
            ("sockmap_available", "1 where splicing by sockmap works here", i64::from(available)),
            ("local_available", "1 where servers on this host can be captured", i64::from(local)),
            ("packet_available", "1 where flows can leave their sockets", i64::from(packet)),
            (
                "connections_limit",
                "Most connections at a time",
                i64::try_from(connection_limit.limit()).unwrap_or(i64::MAX),
            ),
            ("accept_paused", "1 while new connections wait for room", i64::from(connection_limit.is_full())),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        if let Ok(sockmap) = &self.kernel.sockmap {
            encode_sockmap(&mut encoder, sockmap)?;
        }
        self.kernel
            .packet()
            .map_or(Ok(()), |packet| encode_counters(&mut encoder, &of_packet(&packet.counters())))
    }
}

fn encode_sockmap(encoder: &mut DescriptorEncoder<'_>, sockmap: &Sockmap) -> fmt::Result {
    let ceiling = ConstGauge::new(i64::try_from(sockmap.ceiling()).unwrap_or(i64::MAX));
    let help = "Most bytes on their way in a direction of a flow";
    let metric = encoder.encode_descriptor("credit_ceiling_bytes", help, None, ceiling.metric_type())?;
    ceiling.encode(metric)?;
    let again = (
        "sockmap_reattached",
        "Times that the BPF programs of sockmap or local were attached again",
        sockmap.reattached(),
    );
    encode_counters(encoder, &[again])?;
    encode_counters(encoder, &of_sockmap(&sockmap.counters()))
}

/// Name, help and value.
type Reading = (&'static str, &'static str, u64);

fn encode_counters(encoder: &mut DescriptorEncoder<'_>, readings: &[Reading]) -> fmt::Result {
    for (name, help, value) in readings {
        let counter = ConstCounter::new(*value);
        let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
        counter.encode(metric)?;
    }
    Ok(())
}

fn of_sockmap(counters: &KernelCounters) -> [Reading; 11] {
    [
        ("kernel_redirected_bytes", "Bytes that the kernel carried", counters.redirected_bytes),
        ("kernel_redirected_segments", "Segments that the kernel carried", counters.redirected_segments),
        ("kernel_passed_bytes", "Bytes of spliced sockets left to userspace", counters.passed_bytes),
        ("kernel_bypassed_bytes", "Bytes past a loopback connection", counters.bypassed_bytes),
        ("kernel_redirect_failures", "Redirects that found no target", counters.redirect_failures),
        ("kernel_unknown_sockets", "Segments of sockets without a direction", counters.unknown_sockets),
        ("kernel_credit_stops", "Times that a target had no room for more", counters.credit_stops),
        ("kernel_lost_events", "Events that did not fit into the ring", counters.lost_events),
        ("kernel_repeated_bytes", "Bytes of retransmissions that had come before", counters.repeated_bytes),
        (
            "kernel_misfit_segments",
            "Segments that did not fit to those before them",
            counters.misfit_segments,
        ),
        ("kernel_overdrawn_bytes", "Bytes carried beyond the credit", counters.overdrawn_bytes),
    ]
}

fn of_packet(counters: &PacketCounters) -> [Reading; 20] {
    [
        ("packet_forwarded_packets", "Packets translated and sent on", counters.forwarded),
        ("packet_forwarded_bytes", "Payload of them", counters.forwarded_bytes),
        ("packet_walked_packets", "Packets with TCP options beside time stamps", counters.walked),
        ("packet_untranslatable_packets", "Packets dropped, not to be translated", counters.untranslatable),
        ("packet_expired_packets", "Packets dropped, whose hops were used up", counters.expired),
        ("packet_icmp_errors", "ICMP errors translated and sent on", counters.errors),
        ("packet_copied_packets", "Packets that a draining socket got too", counters.copied),
        ("packet_refreshed_packets", "Packets of draining sockets brought up to date", counters.refreshed),
        (
            "packet_invalid_packets",
            "Packets whose numbers are not near those of their connection",
            counters.invalid,
        ),
        ("packet_held_packets", "Packets dropped while a flow gets sockets", counters.held),
        ("packet_lost_events", "Events that did not fit into the ring", counters.lost_events),
        ("packet_no_route_packets", "Packets dropped, to which no route led", counters.no_route),
        ("packet_route_changes", "Ways of entries that have changed", counters.moved),
        ("packet_aged_flows", "Flows forgotten while no daemon ran", counters.aged),
        ("packet_too_big_packets", "Packets too large, whose senders were told", counters.too_big),
        (
            "packet_missed_packets",
            "Packets that came past the programs; the host's resets were dropped",
            counters.missed,
        ),
        ("packet_untracked_connections", "Entries of connection tracking removed", counters.untracked),
        ("packet_reattached", "Interfaces whose programs were attached again", counters.reattached),
        ("packet_repinned", "Pinned files that were made again", counters.repinned),
        ("packet_unsent_segments", "Probes and resets that could not be sent", counters.unsent),
    ]
}
