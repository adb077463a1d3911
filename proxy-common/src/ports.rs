//! Which local ports the kernel gives to connections by itself.

use std::ops::RangeInclusive;

/// Whether the kernel gives no port of `range` to connections that ask for none. `local` and `reserved` are the texts of
/// `net.ipv4.ip_local_port_range` and `net.ipv4.ip_local_reserved_ports`.
#[must_use]
pub fn are_own(range: &RangeInclusive<u16>, local: &str, reserved: &str) -> bool {
    let mut bounds = local.split_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
    let (Some(first), Some(last)) = (bounds.next(), bounds.next()) else { return false };
    let reserved: Vec<RangeInclusive<u16>> = reserved.trim().split(',').filter_map(parts).collect();
    range.clone().all(|port| {
        !(first..=last).contains(&port) || reserved.iter().any(|reserved| reserved.contains(&port))
    })
}

fn parts(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_own_outside_the_local_range_or_reserved_in_it() {
        let own = |range, reserved| are_own(&range, "32768\t60999\n", reserved);
        assert!(own(61_000..=65_535, "\n"));
        assert!(!own(60_999..=61_000, ""));
        assert!(own(40_000..=40_010, "1,40000-40010\n"));
        assert!(!own(40_000..=40_010, "40000-40009"));
        assert!(!are_own(&(61_000..=61_001), "", ""), "the kernel does not tell");
    }
}
