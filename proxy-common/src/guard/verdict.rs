//! The verdict on one packet.

use super::bucket::{Bucket, Rate};
use super::endpoints::Endpoint;
use super::lists::Listed;
use super::packet::{Address, Bytes, Defect, Family, Head, Segment, segment};
use super::reason::Reason;

/// What a source is counted as: its address without the last bits, in one word for both families.
///
/// IPv4 addresses stand where IPv6 has multicast addresses, which are never sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(pub u64);

/// First bits of what stands for an IPv4 source.
const IPV4: u64 = 0xffff_ffff << 32;

/// Bits of the sketch of all bans.
pub const SKETCH_BITS: usize = 1 << 18;

const _: () = assert!(SKETCH_BITS == 0x3_ffff + 1);

impl Source {
    /// The bit of the sketch that is set while the source is banned, and may be set for others.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> usize {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 46 & 0x3_ffff) as usize
    }

    /// With masks of the bits that count: of IPv4, and of the first 64 of IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn of(address: Address, mask_v4: u64, mask_v6: u64) -> Self {
        match address.family {
            Family::V4 => Self(IPV4 | (address.first & mask_v4)),
            Family::V6 => Self(address.first & mask_v6),
        }
    }
}

/// What the daemon and earlier packets have left for the verdict.
pub trait World {
    /// Whether any listener has this port.
    fn is_port(&self, port: u16) -> bool;
    /// Whether a listener has this address and port.
    fn is_listener(&self, endpoint: Endpoint) -> bool;
    /// The list that a source is on.
    fn listed(&self, source: Address) -> Listed;
    /// What a source is counted as.
    fn source(&self, source: Address) -> Source;
    /// Whether a source may be banned: a quick answer, which is often no and never wrongly so.
    fn may_be_banned(&self, source: Source) -> bool;
    /// Until when a source is banned, on the clock of [`Self::now_ns`]. 0: it is not.
    fn banned_until(&self, source: Source) -> u64;
    /// The time.
    fn now_ns(&self) -> u64;
    /// Whether the source has a connection that is carried.
    fn is_live(&self, source: Source) -> bool;
    /// How fast a source may open connections.
    fn source_rate(&self) -> Rate;
    /// The bucket of a source. None: it was not heard of lately.
    fn bucket(&self, source: Source) -> Option<Bucket>;
    /// Puts the bucket of a source back.
    fn put_bucket(&self, source: Source, is_new: bool, after: Bucket);
    /// How fast all sources together may open connections: all of them, or those with a live one
    /// beyond that, for whom no limit means that nothing is kept.
    fn ceiling_rate(&self, reserve: bool) -> Rate;
    /// The bucket of that.
    fn ceiling(&self, reserve: bool) -> Bucket;
    /// Puts it back.
    fn put_ceiling(&self, reserve: bool, after: Bucket);
}

/// Decides about a packet.
#[inline(always)]
pub fn decide<B: Bytes + ?Sized, W: World>(bytes: &B, world: &W) -> Reason {
    let Some(Segment { source, destination, port, head }) = segment(bytes) else { return Reason::Other };
    if !world.is_port(port) || !world.is_listener(Endpoint { address: destination, port }) {
        return Reason::Other;
    }
    match world.listed(source) {
        Listed::Allow => return Reason::Allowed,
        Listed::Deny => return Reason::Denied,
        Listed::No => {}
    }
    let source = world.source(source);
    if world.may_be_banned(source) && world.banned_until(source) > world.now_ns() {
        return Reason::Banned;
    }
    judge(head, source, world)
}

#[inline(always)]
fn judge<W: World>(head: Head, source: Source, world: &W) -> Reason {
    match head.opens() {
        Ok(false) => Reason::Segment,
        Ok(true) => admit(source, world),
        Err(Defect::Truncated) => Reason::Truncated,
        Err(Defect::Offset) => Reason::Offset,
        Err(Defect::Flags) => Reason::Flags,
        Err(Defect::Fragment) => Reason::Fragment,
    }
}

/// A packet that opens a connection takes a token of its source and one of all. A source that is not known yet is entered
/// only if the packet passes: a flood from invented addresses shall not push the real ones out.
#[inline(always)]
fn admit<W: World>(source: Source, world: &W) -> Reason {
    let now = world.now_ns();
    let rate = world.source_rate();
    if !rate.is_limited() {
        return if within_ceiling(source, world, now) { Reason::Syn } else { Reason::Ceiling };
    }
    let known = world.bucket(source);
    let Some(after) = known.unwrap_or_default().take(rate, now) else { return Reason::SourceRate };
    if !within_ceiling(source, world, now) {
        return Reason::Ceiling;
    }
    world.put_bucket(source, known.is_none(), after);
    Reason::Syn
}

#[inline(always)]
fn within_ceiling<W: World>(source: Source, world: &W, now: u64) -> bool {
    if !world.ceiling_rate(false).is_limited() {
        return true;
    }
    let reserve = world.ceiling_rate(true).is_limited() && world.is_live(source);
    (reserve && take(true, world, now)) || take(false, world, now)
}

/// Takes a token of the ceiling, or of what is kept for sources with live connections.
#[inline(always)]
fn take<W: World>(reserve: bool, world: &W, now: u64) -> bool {
    match world.ceiling(reserve).take(world.ceiling_rate(reserve), now) {
        Some(after) => {
            world.put_ceiling(reserve, after);
            true
        }
        None => false,
    }
}
