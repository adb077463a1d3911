//! Which tests are played on which kernel, in a guest.

use anyhow::Result;

use super::part::{Column, Part};
use super::{Datapath, OLD_KERNEL, Options, PACKET, THREADS, programs};
use crate::setup;

/// How closely a kernel is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// As the gate does.
    Short,
    /// Everything that the table of kernels has a column for.
    Close,
}

/// Kernels that have none of the datapaths of the kernel: what is tested there is that they are refused.
const REFUSED: [&str; 1] = ["bullseye"];

/// The tests of one guest.
pub(super) fn parts(suite: &str, look: Look, options: &Options) -> Result<Vec<Part>> {
    if let Some(only) = &options.only {
        let others = programs()?;
        let others = others.iter().map(|program| part(program, &[only], Datapath::Sockmap, Column::Packet));
        return Ok(others.chain([part(PACKET, &[only], Datapath::Packet, Column::Packet)]).collect());
    }
    if REFUSED.contains(&suite) {
        return Ok(refused(look));
    }
    let mut parts = if suite == setup::NEWEST && look == Look::Short { newest() } else { usual() };
    if look == Look::Close {
        parts.extend(close());
    }
    Ok(parts)
}

/// What can differ on another kernel: how it takes the programs, and interfaces that this one may not have.
fn usual() -> Vec<Part> {
    vec![
        part(PACKET, &["links::", "filters::", "conntrack::", "ipvs::"], Datapath::Packet, Column::Packet),
        part("guard", &["attach::"], Datapath::Sockmap, Column::Guard),
        part("contract", &["ends::law_3"], Datapath::Sockmap, Column::Sockmap),
        part("kernel", &["by_sockmap", "the_daemon_counts"], Datapath::Sockmap, Column::Sockmap),
    ]
}

/// What newer kernels have changed before: the program types that may change maps of sockets, what programs behind a generic XDP
/// program see, and netfilter's modules.
fn newest() -> Vec<Part> {
    vec![
        part(
            PACKET,
            &["basics::a_flow_leaves", "generic::a_guard", "conntrack::", "back::a_flow_gets"],
            Datapath::Packet,
            Column::Packet,
        ),
        part("guard", &["attach::each_mode"], Datapath::Sockmap, Column::Guard),
        part("kernel", &["by_sockmap"], Datapath::Sockmap, Column::Sockmap),
        part("local", LOCAL, Datapath::Local, Column::Local),
    ]
}

/// Servers that are captured, by IPv4 and IPv6, and one of another namespace, which must not be.
const LOCAL: &[&str] = &["a_client_that_does_not_read", "a_server_of_another", "the_server_may_have_any"];

/// What the table has a column for.
fn close() -> Vec<Part> {
    // Others depend on timers of some seconds, in which a guest does nothing.
    let mut parts = vec![
        part("local", LOCAL, Datapath::Local, Column::Local),
        part(
            PACKET,
            &[
                "basics::a_flow_leaves",
                "basics::flows_by_ipv6",
                "basics::both",
                "basics::a_reset",
                "generic::",
                "classifiers::",
            ],
            Datapath::Packet,
            Column::Packet,
        ),
        part(PACKET, &["back::a_flow_gets", "back::so_does_one_by_ipv6"], Datapath::Packet, Column::Restore),
        part(PACKET, &["outlive::a_killed"], Datapath::Packet, Column::Kill),
        part("guard", &["verdicts::"], Datapath::Sockmap, Column::Guard),
    ];
    for (datapath, column) in [
        (Datapath::Sockmap, Column::Sockmap),
        (Datapath::Copy, Column::Copy),
        (Datapath::Local, Column::Local),
        (Datapath::Packet, Column::Packet),
    ] {
        parts.push(part("contract", &["bytes::law_1_all", "bytes::law_1_bytes"], datapath, column));
        parts.push(part("contract", &["stop::law_7_a_killed"], datapath, Column::Kill));
        parts.push(part("contract", &[GIBIBYTE], datapath, Column::Bulk));
    }
    parts
}

/// Sends a gibibyte each way.
const GIBIBYTE: &str = "bytes::law_1_a_gibibyte";

/// On a kernel that has nothing to splice with.
fn refused(look: Look) -> Vec<Part> {
    let mut parts = vec![
        part(OLD_KERNEL, &[], Datapath::Auto, Column::Refusals),
        part("contract", &["bytes::law_1_bytes", "ends::law_3"], Datapath::Copy, Column::Copy),
    ];
    if look == Look::Close {
        parts.push(part("contract", &["bytes::law_1_all"], Datapath::Copy, Column::Copy));
        parts.push(part("contract", &[GIBIBYTE], Datapath::Copy, Column::Bulk));
    }
    parts
}

fn part(program: &str, tests: &[&str], datapath: Datapath, column: Column) -> Part {
    let tests = tests.iter().map(|&name| name.to_owned()).collect();
    Part { program: program.to_owned(), tests, datapath, threads: THREADS, column }
}
