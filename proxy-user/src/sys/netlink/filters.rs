//! Filters of a `clsact` (tc(8)): which program is there.

use std::io;

use super::message::{find, number};
use super::routes::open;

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
    let answer = match open()?.ask(FILTER_GET, &body, FILTER_NEW) {
        Ok(answer) => answer,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(program(&answer))
}

/// The ids of the programs of filters that the kernel asks about what comes in by an interface, in their order, up to that of this
/// program. A filter without a program counts as 0.
pub(crate) fn filters_before(device: u32, program: u32) -> io::Result<Vec<u32>> {
    let mut body = vec![0; 4];
    body.extend(device.to_ne_bytes());
    body.extend([0; 4]);
    body.extend(INGRESS.to_ne_bytes());
    body.extend([0; 4]);
    let mut found = Vec::new();
    match open()?.list(FILTER_GET, &body, FILTER_NEW, |filter| found.extend(program_of(filter))) {
        Err(error) if !is_absence(&error) => return Err(error),
        _ => {}
    }
    let ours = found.iter().position(|id| *id == program);
    found.truncate(ours.unwrap_or(found.len()));
    Ok(found)
}

/// The kernel has no such interface, no `clsact` at it, no such filter, or no filters at all.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP))
}

/// The id of the program of a filter. The first message of each priority has no handle, and is no filter.
fn program_of(message: &[u8]) -> Option<u32> {
    let handle = number(message.get(8..)?)?;
    (handle != 0).then(|| program(message).unwrap_or(0))
}

fn program(message: &[u8]) -> Option<u32> {
    number(find(find(message.get(HEAD..)?, OPTIONS)?, PROGRAM)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_filter_of_ours_at_an_interface_that_is_not_there() {
        assert_eq!(filter_program(u32::MAX >> 1, true, 1, 1).unwrap(), None);
        assert!(filters_before(u32::MAX >> 1, 9).unwrap().is_empty());
    }

    #[test]
    fn a_message_that_is_cut_off_says_nothing() {
        assert_eq!(program_of(&[0; 11]), None);
        assert_eq!(program_of(&[1; 12]), Some(0));
    }
}
