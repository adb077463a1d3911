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
            ("sockmap_available", "1 if splicing works on this host", i64::from(available)),
            ("local_available", "1 if servers on this host can be captured", i64::from(local)),
            ("packet_available", "1 if connections can be offloaded", i64::from(packet)),
            (
                "connections_limit",
                "Most connections at a time",
                i64::try_from(connection_limit.limit()).unwrap_or(i64::MAX),
            ),
            (
                "accept_paused",
                "1 while the connection limit is reached and new connections wait",
                i64::from(connection_limit.is_full()),
            ),
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
    let help = "Most bytes in flight in a direction of a spliced connection";
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
        ("kernel_redirected_bytes", "Bytes that the kernel spliced", counters.redirected_bytes),
        ("kernel_redirected_segments", "Segments that the kernel spliced", counters.redirected_segments),
        ("kernel_passed_bytes", "Bytes of spliced connections copied by the daemon", counters.passed_bytes),
        ("kernel_bypassed_bytes", "Bytes that bypassed a loopback connection", counters.bypassed_bytes),
        ("kernel_redirect_failures", "Redirects without a target", counters.redirect_failures),
        ("kernel_unknown_sockets", "Segments of sockets without a direction", counters.unknown_sockets),
        ("kernel_credit_stops", "Times that a sender was stopped for a slow receiver", counters.credit_stops),
        ("kernel_lost_events", "Events that did not fit into the ring", counters.lost_events),
        (
            "kernel_repeated_bytes",
            "Bytes of retransmissions that had arrived before",
            counters.repeated_bytes,
        ),
        ("kernel_misfit_segments", "Segments that did not continue their stream", counters.misfit_segments),
        ("kernel_overdrawn_bytes", "Bytes spliced beyond the credit", counters.overdrawn_bytes),
    ]
}

fn of_packet(counters: &PacketCounters) -> [Reading; 20] {
    [
        ("packet_forwarded_packets", "Packets of offloaded connections forwarded", counters.forwarded),
        ("packet_forwarded_bytes", "Payload of forwarded packets", counters.forwarded_bytes),
        ("packet_walked_packets", "Packets with TCP options other than time stamps", counters.walked),
        (
            "packet_untranslatable_packets",
            "Packets dropped because they cannot be translated",
            counters.untranslatable,
        ),
        ("packet_expired_packets", "Packets dropped because their TTL was used up", counters.expired),
        ("packet_icmp_errors", "ICMP errors translated and forwarded", counters.errors),
        ("packet_copied_packets", "Packets also given to a draining socket", counters.copied),
        (
            "packet_refreshed_packets",
            "Packets of draining sockets whose numbers were updated",
            counters.refreshed,
        ),
        (
            "packet_invalid_packets",
            "Packets with numbers far from those of their connection",
            counters.invalid,
        ),
        ("packet_held_packets", "Packets dropped while their connection was restored", counters.held),
        ("packet_lost_events", "Events that did not fit into the ring", counters.lost_events),
        ("packet_no_route_packets", "Packets dropped because there was no route", counters.no_route),
        ("packet_route_changes", "Directions whose outgoing interface changed", counters.moved),
        ("packet_aged_flows", "Offloaded connections removed while no daemon ran", counters.aged),
        ("packet_too_big_packets", "Packets above the MTU whose senders were informed", counters.too_big),
        (
            "packet_missed_packets",
            "Packets that bypassed the programs and whose reset was dropped",
            counters.missed,
        ),
        ("packet_untracked_connections", "Connection tracking entries removed", counters.untracked),
        ("packet_reattached", "Times that programs were attached again", counters.reattached),
        ("packet_repinned", "Pinned files created again", counters.repinned),
        ("packet_unsent_segments", "Probes and resets that could not be sent", counters.unsent),
    ]
}
