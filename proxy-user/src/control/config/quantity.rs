//! Durations, sizes and ranges.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::report::{Fault, quote};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Bounds of a wait that must end and must be one.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;

/// Bounds of a hold: it may be none.
pub(super) const HOLD: RangeInclusive<Duration> = Duration::ZERO..=DAY;

/// The shortest idle timeout.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// Bounds of a budget of memory, in bytes.
const MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 40;

/// A whole number and its unit, within `bounds`.
pub(super) fn duration(text: &str, bounds: &RangeInclusive<Duration>) -> Result<Duration, Fault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => 0,
    };
    if number.is_empty() || unit_ms == 0 {
        return Err(Fault::new(
            format!("{} is not a duration", quote(text)),
            "write a whole number and ms, s, m or h, for example \"250ms\", \"10s\" or \"5m\"",
        ));
    }
    let ms = number.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit_ms);
    let duration = Duration::from_millis(ms);
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let side = if duration > *bounds.end() { "long" } else { "short" };
    let least = if bounds.start().is_zero() { "\"0s\"" } else { "\"1ms\"" };
    Err(Fault::new(format!("{} is too {side}", quote(text)), format!("write {least} to \"24h\"")))
}

/// How long a flow may rest: for ever, or for long enough that a timer is worth it.
pub(super) fn idle(text: &str) -> Result<Duration, Fault> {
    let idle = duration(text, &HOLD)?;
    if idle.is_zero() || idle >= IDLE_MIN {
        return Ok(idle);
    }
    Err(Fault::new(
        format!("{} is too short", quote(text)),
        "write \"1s\" to \"24h\", or \"0s\" for no limit",
    ))
}

/// A size in memory, within bounds: a whole number and its unit.
pub(super) fn memory(text: &str) -> Result<u64, Fault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => 0,
    };
    if number.is_empty() || shift == 0 {
        return Err(Fault::new(
            format!("{} is not a size", quote(text)),
            "write a whole number and KiB, MiB or GiB, for example \"512MiB\"",
        ));
    }
    let bytes = number.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1 << shift);
    if MEMORY.contains(&bytes) {
        return Ok(bytes);
    }
    let side = if bytes > *MEMORY.end() { "large" } else { "small" };
    Err(Fault::new(format!("{} is too {side}", quote(text)), "write \"1MiB\" to \"1024GiB\""))
}

/// A range of ports, of which none is one that anybody may listen on.
pub(super) fn ports(text: &str) -> Result<RangeInclusive<u16>, Fault> {
    let bounds =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match bounds {
        Some((first, last)) if first >= 1024 && first <= last => Ok(first..=last),
        _ => Err(Fault::new(
            format!("{} is not a range of ports", quote(text)),
            "write two ports from 1024 to 65535, for example \"61000-65535\"",
        )),
    }
}
