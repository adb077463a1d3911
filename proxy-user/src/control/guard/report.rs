//! What the guard tells of itself.

use proxy_common::guard::Why;
use serde::Serialize;

use super::Guard;
use crate::sys;

/// `/api/v1/guard`, and a part of the status.
#[derive(Serialize)]
pub(in crate::control) struct GuardReport {
    pub(in crate::control) dry_run: bool,
    /// Id of the BPF program.
    program: u32,
    pub(in crate::control) interfaces: Vec<Interface>,
    pub(in crate::control) allow: usize,
    pub(in crate::control) deny: usize,
    pub(in crate::control) deny_file: usize,
    pub(in crate::control) bans: usize,
    pub(in crate::control) sources: u64,
    pub(in crate::control) sources_limit: u32,
    pub(in crate::control) packets: Vec<Packets>,
    pub(in crate::control) bans_made: Vec<Count>,
    pub(in crate::control) bans_refused: Vec<Count>,
}

#[derive(Serialize)]
pub(in crate::control) struct Interface {
    pub(in crate::control) name: String,
    /// None: not attached.
    pub(in crate::control) mode: Option<&'static str>,
    /// Why not.
    pub(in crate::control) reason: Option<String>,
}

#[derive(Serialize)]
pub(in crate::control) struct Packets {
    /// `pass`, `drop`, or `dry_run`: it would have been dropped.
    pub(in crate::control) verdict: &'static str,
    pub(in crate::control) reason: &'static str,
    pub(in crate::control) count: u64,
}

#[derive(Serialize)]
pub(in crate::control) struct Count {
    pub(in crate::control) reason: &'static str,
    pub(in crate::control) count: u64,
}

/// One ban.
#[derive(Serialize)]
pub(in crate::control) struct Listed {
    net: String,
    reason: &'static str,
    /// None: until it is lifted.
    seconds_left: Option<u64>,
}

impl Guard {
    /// Whether it only counts what it would drop.
    pub(in crate::control) fn is_dry(&self) -> bool {
        self.config.dry_run
    }

    pub(in crate::control) fn report(&self) -> GuardReport {
        let state = self.state();
        let interfaces = self.config.interfaces.iter().map(|name| {
            let (mode, reason) = match state.places.get(name) {
                Some(Ok(link)) => (Some(link.mode.name()), None),
                Some(Err(reason)) => (None, Some(reason.to_string())),
                None => (None, Some("there is no such interface".to_owned())),
            };
            Interface { name: name.to_string(), mode, reason }
        });
        let refused = ["allowed", "protected", "full"]
            .map(|reason| Count { reason, count: state.refused.get(reason).copied().unwrap_or_default() });
        GuardReport {
            dry_run: self.config.dry_run,
            program: self.kernel.id(),
            interfaces: interfaces.collect(),
            allow: self.config.allow.len(),
            deny: self.config.deny.len(),
            deny_file: state.file.len(),
            bans: state.bans.len(),
            sources: state.watched,
            sources_limit: self.config.sources,
            packets: self.packets(),
            bans_made: Why::ALL
                .map(|why| Count {
                    reason: why.label(),
                    count: state.made.get(&why).copied().unwrap_or_default(),
                })
                .into(),
            bans_refused: refused.into(),
        }
    }

    fn packets(&self) -> Vec<Packets> {
        let [counts, dry] = self.kernel.counts();
        let verdict = |drops: bool| if drops { "drop" } else { "pass" };
        let real = counts.into_iter().map(|(reason, count)| (verdict(reason.drops()), reason, count));
        let dry = dry.into_iter().filter(|(reason, _)| reason.drops());
        let all = real.chain(dry.map(|(reason, count)| ("dry_run", reason, count)));
        all.map(|(verdict, reason, count)| Packets { verdict, reason: reason.label(), count }).collect()
    }

    /// All bans.
    pub(in crate::control) fn list(&self) -> Vec<Listed> {
        let now = sys::now();
        let listed = |(net, ban): (ipnet::IpNet, proxy_common::guard::Ban)| Listed {
            net: net.to_string(),
            reason: ban.why.label(),
            seconds_left: ban.until.map(|until| until.saturating_sub(now).as_secs()),
        };
        self.state().bans.iter().map(listed).collect()
    }
}
