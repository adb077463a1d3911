//! Which sources are banned, since when, and for how long.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ipnet::IpNet;

/// What a source did that it should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Offence {
    /// A connection without a whole hello: too slow, ended, reset.
    NoHello,
    /// A hello that breaks the protocol, or one that is too large.
    BrokenHello,
    /// More connections at a time than a source may have.
    TooMany,
}

/// Why a network is banned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// It did this too often.
    Offence(Offence),
    /// An operator wanted it.
    Operator,
}

impl Why {
    /// All there are.
    pub const ALL: [Self; 4] = [
        Self::Offence(Offence::NoHello),
        Self::Offence(Offence::BrokenHello),
        Self::Offence(Offence::TooMany),
        Self::Operator,
    ];

    /// The word of metrics and of `snisplice guard list`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Offence(Offence::NoHello) => "no_hello",
            Self::Offence(Offence::BrokenHello) => "broken_hello",
            Self::Offence(Offence::TooMany) => "too_many",
            Self::Operator => "operator",
        }
    }
}

/// When sources are banned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// After so many offences; 0: never, but by an operator.
    pub threshold: u32,
    /// If they come within this time of the first.
    pub window: Duration,
    /// For so long.
    pub time: Duration,
    /// The most bans at a time.
    pub limit: usize,
}

/// Why a ban is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It would do nothing: the allow list wins.
    #[error("the allow list has addresses of it, and that wins")]
    Allowed,
    /// It would cut connections that are to live.
    #[error("it has established connections to an upstream that protects its clients from bans")]
    Protected,
    /// There are as many bans as there may be.
    #[error("there are as many bans as there may be")]
    Full,
}

/// One ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// On the caller's clock. None: until it is lifted.
    pub until: Option<Duration>,
    /// Why.
    pub why: Why,
}

/// Offences of one source.
#[derive(Debug, Clone, Copy)]
struct Record {
    since: Duration,
    count: u32,
}

/// Sources that are being counted, for each ban that there may be.
const RECORDS_PER_BAN: usize = 4;

/// All bans, and the offences that may lead to more.
#[derive(Debug)]
pub struct Bans {
    policy: Policy,
    records: HashMap<IpNet, Record>,
    bans: BTreeMap<IpNet, Ban>,
}

impl Bans {
    /// None yet.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, records: HashMap::new(), bans: BTreeMap::new() }
    }

    /// Counts an offence of `source`. True: that was one too many, so that it is to be banned, if nothing is said against it.
    pub fn offend(&mut self, source: IpNet, now: Duration) -> bool {
        if self.policy.threshold == 0 || self.bans.contains_key(&source) {
            return false;
        }
        let (window, full) = (self.policy.window, self.policy.limit.saturating_mul(RECORDS_PER_BAN));
        if self.records.len() >= full && !self.records.contains_key(&source) {
            self.records.retain(|_, record| now.saturating_sub(record.since) <= window);
            // Whoever comes while all places are taken by others is not counted.
            if self.records.len() >= full {
                return false;
            }
        }
        let record = self.records.entry(source).or_insert(Record { since: now, count: 0 });
        if now.saturating_sub(record.since) > window {
            *record = Record { since: now, count: 0 };
        }
        record.count = record.count.saturating_add(1);
        let enough = record.count >= self.policy.threshold;
        if enough {
            self.records.remove(&source);
        }
        enough
    }

    /// Bans a network. What was said of it before is replaced.
    ///
    /// # Errors
    /// There are as many bans as there may be.
    pub fn ban(&mut self, net: IpNet, ban: Ban) -> Result<(), Refusal> {
        if self.bans.len() >= self.policy.limit && !self.bans.contains_key(&net) {
            return Err(Refusal::Full);
        }
        self.bans.insert(net, ban);
        Ok(())
    }

    /// When a ban of the policy, made now, ends.
    #[must_use]
    pub fn end(&self, now: Duration) -> Duration {
        now.saturating_add(self.policy.time)
    }

    /// Lifts a ban. None: there was none.
    pub fn lift(&mut self, net: &IpNet) -> Option<Ban> {
        self.bans.remove(net)
    }

    /// Lifts the bans that are over, and returns them.
    pub fn expire(&mut self, now: Duration) -> Vec<IpNet> {
        let over = |ban: &Ban| ban.until.is_some_and(|until| until <= now);
        let gone: Vec<IpNet> = self.bans.iter().filter(|(_, ban)| over(ban)).map(|(net, _)| *net).collect();
        for net in &gone {
            self.bans.remove(net);
        }
        gone
    }

    /// The ban of exactly this network.
    #[must_use]
    pub fn get(&self, net: &IpNet) -> Option<Ban> {
        self.bans.get(net).copied()
    }

    /// All bans, in the order of their networks.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, Ban)> + '_ {
        self.bans.iter().map(|(net, ban)| (*net, *ban))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }
}

/// Whether two networks have addresses in common.
#[must_use]
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { threshold: 3, window: Duration::from_secs(10), time: Duration::from_secs(60), limit: 2 };

    fn net(last: u8) -> IpNet {
        IpNet::from(std::net::IpAddr::from([192, 0, 2, last]))
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn forever() -> Ban {
        Ban { until: None, why: Why::Operator }
    }

    #[test]
    fn the_third_offence_within_the_window_is_one_too_many() {
        let mut bans = Bans::new(POLICY);
        assert_eq!([0, 9, 10].map(|second| bans.offend(net(1), at(second))), [false, false, true]);
        assert_eq!([11, 12, 22].map(|second| bans.offend(net(1), at(second))), [false, false, false]);
        assert_eq!([23, 24].map(|second| bans.offend(net(1), at(second))), [false, true]);
        let mut never = Bans::new(Policy { threshold: 0, ..POLICY });
        assert!((0..100).all(|_| !never.offend(net(1), at(0))));
    }

    #[test]
    fn a_ban_ends_and_can_be_lifted_and_its_source_is_not_counted_meanwhile() {
        let mut bans = Bans::new(POLICY);
        let until = Some(bans.end(at(5)));
        bans.ban(net(1), Ban { until, why: Why::Offence(Offence::NoHello) }).unwrap();
        bans.ban(net(2), forever()).unwrap();
        assert!((0..9).all(|_| !bans.offend(net(1), at(6))));
        assert_eq!((bans.get(&net(2)), bans.get(&net(3))), (Some(forever()), None));
        assert_eq!(bans.expire(at(64)), []);
        assert_eq!(bans.expire(at(65)), [net(1)]);
        assert_eq!(bans.expire(at(1_000_000)), []);
        assert_eq!((bans.lift(&net(2)), bans.lift(&net(2))), (Some(forever()), None));
        assert!(bans.is_empty());
    }

    #[test]
    fn neither_bans_nor_records_grow_without_bound() {
        let mut bans = Bans::new(POLICY);
        assert_eq!([1, 2, 3].map(|n| bans.ban(net(n), forever())), [Ok(()), Ok(()), Err(Refusal::Full)]);
        assert_eq!(bans.ban(net(2), forever()), Ok(()), "a ban that is there can be made longer");
        for n in 10..200 {
            assert!(!bans.offend(net(n), at(0)));
        }
        assert_eq!(bans.records.len(), 8);
        // Once the window is over, there is room again.
        assert_eq!([20, 20, 20].map(|second| bans.offend(net(99), at(second))), [false, false, true]);
    }

    #[test]
    fn networks_overlap_when_one_has_the_other() {
        let wide: IpNet = "192.0.2.0/24".parse().unwrap();
        assert!(overlap(&wide, &net(7)) && overlap(&net(7), &wide) && !overlap(&net(6), &net(7)));
        assert!(!overlap(&"::/0".parse().unwrap(), &net(7)));
    }
}
