//! Banning and lifting bans, by the policy and by an operator.

use std::time::Duration;

use ipnet::IpNet;
use proxy_common::guard::{Ban, Refusal, Why, overlap};

use super::{Guard, Refused, State};
use crate::sys;

impl Guard {
    /// Whether a network is just one source: the program then finds it by itself, and needs no new lists.
    pub(super) fn is_source(&self, net: &IpNet) -> bool {
        let [v4, v6] = self.config.source_bits;
        net.prefix_len() == if net.addr().is_ipv4() { v4 } else { v6 }
    }

    /// Hears what the front has to tell.
    pub(super) fn hear(&self) {
        let Some(sources) = self.hub.sources.get() else { return };
        let news = sources.take();
        for (source, is_live) in news.changed {
            if let Err(error) = self.kernel.set_live(self.kernel.source(source.addr()), is_live) {
                tracing::debug!(%error, "a source with live connections is not known as one");
            }
        }
        let (mut state, now, mut banned) = (self.state(), sys::now(), Vec::new());
        for (source, offence) in news.offences {
            if !state.bans.offend(source, now) {
                continue;
            }
            let ban = Ban { until: Some(state.bans.end(now)), why: Why::Offence(offence) };
            match self.decide(&mut state, source, ban, false) {
                Ok(()) => banned.push(source),
                Err(refusal) => *state.refused.entry(refusal_label(refusal)).or_default() += 1,
            }
        }
        if !banned.is_empty() {
            let dry_run = self.config.dry_run;
            tracing::info!(count = banned.len(), bans = state.bans.len(), dry_run, "sources banned");
            if let Err(error) = self.apply(&state, &banned, &[]) {
                tracing::error!(%error, "a ban has no effect");
            }
        }
    }

    /// Makes a ban, if nothing is said against it.
    fn decide(&self, state: &mut State, net: IpNet, ban: Ban, force: bool) -> Result<(), Refusal> {
        if self.config.allow.iter().any(|allowed| overlap(allowed, &net)) {
            return Err(Refusal::Allowed);
        }
        if !force && self.hub.sources.get().is_some_and(|sources| sources.protects(&net)) {
            return Err(Refusal::Protected);
        }
        state.bans.ban(net, ban)?;
        *state.made.entry(ban.why).or_default() += 1;
        Ok(())
    }

    /// An operator's ban. `force`: also of a source whose connections would be cut.
    pub(in crate::control) fn ban(
        &self,
        net: IpNet,
        time: Option<Duration>,
        force: bool,
    ) -> Result<(), Refused> {
        let mut state = self.state();
        let until = time.map(|time| sys::now().saturating_add(time));
        self.decide(&mut state, net, Ban { until, why: Why::Operator }, force)?;
        let applied = self.apply(&state, &[net], &[]);
        if applied.is_err() {
            state.bans.lift(&net);
        } else {
            tracing::info!(%net, dry_run = self.config.dry_run, "banned by an operator");
        }
        applied
    }

    /// Lifts a ban. False: there is none of exactly this network.
    pub(in crate::control) fn unban(&self, net: IpNet) -> Result<bool, Refused> {
        let mut state = self.state();
        if state.bans.lift(&net).is_none() {
            return Ok(false);
        }
        tracing::info!(%net, "ban lifted by an operator");
        self.apply(&state, &[], &[net]).map(|()| true)
    }

    pub(super) fn expire(&self) {
        let mut state = self.state();
        let gone = state.bans.expire(sys::now());
        if gone.is_empty() {
            return;
        }
        tracing::debug!(count = gone.len(), "bans are over");
        if let Err(error) = self.apply(&state, &[], &gone) {
            tracing::error!(%error, "bans that are over still have an effect");
        }
    }

    /// Tells the program.
    fn apply(&self, state: &State, banned: &[IpNet], lifted: &[IpNet]) -> Result<(), Refused> {
        let source = |net: &IpNet| self.kernel.source(net.addr());
        let until = |net: &IpNet| {
            let until = state.bans.get(net).and_then(|ban| ban.until);
            until.map_or(u64::MAX, |until| u64::try_from(until.as_nanos()).unwrap_or(u64::MAX))
        };
        let (own, others): (Vec<&IpNet>, Vec<&IpNet>) = banned.iter().partition(|net| self.is_source(net));
        let (own_lifted, others_lifted): (Vec<&IpNet>, Vec<&IpNet>) =
            lifted.iter().partition(|net| self.is_source(net));
        let new: Vec<_> = own.into_iter().map(|net| (source(net), until(net))).collect();
        let old: Vec<_> = own_lifted.into_iter().map(source).collect();
        if !new.is_empty() || !old.is_empty() {
            let all = state.bans.iter().map(|(net, _)| net).filter(|net| self.is_source(net));
            self.kernel.set_bans(&new, &old, all.map(|net| source(&net)))?;
        }
        if !others.is_empty() || !others_lifted.is_empty() {
            self.compile(state)?;
        }
        Ok(())
    }
}

/// The word of the metric.
pub(super) const fn refusal_label(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Allowed => "allowed",
        Refusal::Protected => "protected",
        Refusal::Full => "full",
    }
}
