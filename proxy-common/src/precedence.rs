//! The order in which the addresses of one name are tried.

use std::net::{IpAddr, Ipv6Addr};

/// As the C library orders what it has looked up (RFC 6724, rules 1 and 6 with the default table): addresses that nothing leads to
/// come last, then those with a higher precedence first. Equal ones stay in the order of the answer.
pub fn by_precedence(addresses: &mut [IpAddr], leads_to: impl Fn(IpAddr) -> bool) {
    let mut keyed: Vec<_> = addresses
        .iter()
        .map(|address| (!leads_to(*address), u8::MAX - precedence(*address), *address))
        .collect();
    keyed.sort_by_key(|(is_unreachable, rank, _)| (*is_unreachable, *rank));
    for (place, (_, _, address)) in addresses.iter_mut().zip(keyed) {
        *place = address;
    }
}

/// The default policy table (RFC 6724, section 2.1).
fn precedence(address: IpAddr) -> u8 {
    const IPV4: u8 = 35;
    let IpAddr::V6(address) = address else { return IPV4 };
    match address.segments() {
        _ if address == Ipv6Addr::LOCALHOST => 50,
        [0, 0, 0, 0, 0, 0xffff, _, _] => IPV4,
        [0x2002, ..] => 30,
        [0x2001, 0, ..] => 5,
        [first, ..] if first & 0xfe00 == 0xfc00 => 3,
        [first, ..] if first & 0xffc0 == 0xfec0 => 1,
        [0x3ffe, ..] => 1,
        [0, 0, 0, 0, 0, 0, _, _] => 1,
        _ => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(addresses: &[&str], leads_to: impl Fn(IpAddr) -> bool) -> Vec<String> {
        let mut addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        by_precedence(&mut addresses, leads_to);
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn global_ipv6_comes_first_then_ipv4_then_private_ipv6() {
        let all = ["fd00::1", "10.0.0.2", "2001:db8::1", "10.0.0.1", "2002::1", "::1"];
        let expected = ["::1", "2001:db8::1", "10.0.0.2", "10.0.0.1", "2002::1", "fd00::1"];
        assert_eq!(ordered(&all, |_| true), expected);
    }

    #[test]
    fn what_nothing_leads_to_comes_last() {
        let all = ["2001:db8::1", "2001:db8::2", "10.0.0.1"];
        assert_eq!(ordered(&all, |address| address.is_ipv4()), ["10.0.0.1", "2001:db8::1", "2001:db8::2"]);
    }
}
