//! Durations, sizes and ranges.

use std::ops::RangeInclusive;
use std::time::Duration;

use proxy_common::hello::MaxHello;

use super::report::{Fault, quote};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Bounds of a wait that must end and must be one.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;

/// Bounds of a hold: it may be none.
pub(super) const HOLD: RangeInclusive<Duration> = Duration::ZERO..=DAY;

/// The shortest idle timeout.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// Bounds of a budget of memory, in bytes.
pub(super) const MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 40;

/// Bounds of the size of a hello, in bytes.
pub(super) const HELLO: RangeInclusive<u64> = MaxHello::MIN.body() as u64..=MaxHello::MAX.body() as u64;

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
        let example = match meant_duration(text) {
            Some((ms, _)) if ms > bounds.end().as_millis() => {
                return Err(too_long_or_short(text, "long", bounds));
            }
            Some((_, meant)) => format!("here \"{meant}\""),
            None => "for example \"250ms\", \"10s\" or \"5m\"".to_owned(),
        };
        return Err(Fault::new(
            format!("{} is not a duration", quote(text)),
            format!("write a whole number and ms, s, m or h, {example}"),
        ));
    }
    let ms = number.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit_ms);
    let duration = Duration::from_millis(ms);
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let side = if duration > *bounds.end() { "long" } else { "short" };
    Err(too_long_or_short(text, side, bounds))
}

fn too_long_or_short(text: &str, side: &str, bounds: &RangeInclusive<Duration>) -> Fault {
    let least = if bounds.start().is_zero() { "\"0s\"" } else { "\"1ms\"" };
    Fault::new(format!("{} is too {side}", quote(text)), format!("write {least} to \"24h\""))
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
pub(super) fn size(text: &str, bounds: &RangeInclusive<u64>) -> Result<u64, Fault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => 0,
    };
    if number.is_empty() || shift == 0 {
        let example = meant_size(text).map_or_else(
            || format!("for example \"{}\"", written(*bounds.start())),
            |meant| format!("here \"{meant}\""),
        );
        return Err(Fault::new(
            format!("{} is not a size", quote(text)),
            format!("write a whole number and KiB, MiB or GiB, {example}"),
        ));
    }
    let bytes = number.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1 << shift);
    if bounds.contains(&bytes) {
        return Ok(bytes);
    }
    let side = if bytes > *bounds.end() { "large" } else { "small" };
    let [least, most] = [bounds.start(), bounds.end()].map(|bytes| written(*bytes));
    Err(Fault::new(format!("{} is too {side}", quote(text)), format!("write \"{least}\" to \"{most}\"")))
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

/// The duration that a text in another notation means, in milliseconds and in ours: as `1d`, `1.5s`, `1h30m` or `10 sec`.
fn meant_duration(text: &str) -> Option<(u128, String)> {
    let unit_ms = |unit: &str| {
        Some(match unit {
            "ms" | "msec" | "millis" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            _ => return None,
        })
    };
    let (mut rest, mut sum) = (text.trim(), 0_u64);
    loop {
        let (thousandths, unit, after) = amount(rest)?;
        let part = thousandths.checked_mul(unit_ms(&unit)?)?;
        sum = sum.checked_add(part)?;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let ms = (sum % 1000 == 0).then_some(sum / 1000)?;
    let (scale, unit) = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")]
        .into_iter()
        .find(|(scale, _)| ms % scale == 0)?;
    Some((u128::from(ms), format!("{}{unit}", ms / scale)))
}

/// A size as it is written, in the largest unit up to 1023 of the next one.
fn written(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let (shift, unit) = units.into_iter().find(|(shift, _)| bytes >> shift > 0).unwrap_or((10, "KiB"));
    format!("{}{unit}", bytes >> shift)
}

/// The size that a text in another notation means, as `512MB`, `512M` or `1.5 GiB`.
fn meant_size(text: &str) -> Option<String> {
    let (thousandths, unit, rest) = amount(text.trim())?;
    let power = match unit.strip_suffix('b').unwrap_or(&unit) {
        "k" | "ki" => 0,
        "m" | "mi" => 1,
        "g" | "gi" => 2,
        "t" | "ti" => 3,
        _ => return None,
    };
    // The largest unit in which it is a whole number.
    let mut power: usize = power;
    let mut thousandths = thousandths;
    while (thousandths % 1000 != 0 || power > 2) && power > 0 {
        thousandths = thousandths.checked_mul(1024)?;
        power -= 1;
    }
    let unit = ["KiB", "MiB", "GiB"].get(power)?;
    (rest.is_empty() && thousandths % 1000 == 0).then(|| format!("{}{unit}", thousandths / 1000))
}

/// The number at the start of a text in thousandths, the unit behind it in lower case, and what follows.
fn amount(text: &str) -> Option<(u64, String, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 3 || fraction.contains('.') {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    let thousandths = whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(fraction)?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at_checked(end)?;
    Some((thousandths, unit.to_ascii_lowercase(), rest.trim_start()))
}
