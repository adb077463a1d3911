//! Filters of a `clsact` (tc(8)): which program is there.

use std::io;

use super::routes::{Router, ask, find};

/// Messages, and the bytes of `struct tcmsg` before their attributes (`include/uapi/linux/rtnetlink.h`).
const FILTER_GET: u16 = 46;
const FILTER_NEW: u16 = 44;
const HEAD: usize = 20;
/// `TCA_OPTIONS`, and in it `TCA_BPF_ID`.
const OPTIONS: u16 = 2;
const PROGRAM: u16 = 11;
/// The two sides of a `clsact`, as parents of filters (`include/uapi/linux/pkt_sched.h`).
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// `ETH_P_ALL`.
const ALL: u16 = 3;

/// The id of the BPF program of the filter with this priority and handle at an interface of this thread's network namespace. None:
/// there is no such filter.
pub(crate) fn filter_program(
    device: u32,
    is_ingress: bool,
    priority: u16,
    handle: u32,
) -> io::Result<Option<u32>> {
    let mut body = vec![0; 4];
    body.extend(device.to_ne_bytes());
    body.extend(handle.to_ne_bytes());
    body.extend(if is_ingress { INGRESS } else { EGRESS }.to_ne_bytes());
    body.extend((u32::from(priority) << 16 | u32::from(ALL.to_be())).to_ne_bytes());
    let answer = match ask(&Router::open()?.0, FILTER_GET, &body, FILTER_NEW) {
        Ok(answer) => answer,
        // No such interface, no `clsact`, no filter.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let options = find(&answer, HEAD, OPTIONS).unwrap_or_default();
    let id = find(options, 0, PROGRAM).and_then(|id| id.first_chunk().copied());
    Ok(id.map(u32::from_ne_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_filter_of_ours_at_an_interface_that_is_not_there() {
        assert_eq!(filter_program(u32::MAX >> 1, true, 1, 1).unwrap(), None);
    }
}
