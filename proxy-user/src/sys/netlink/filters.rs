//! Filters of a `clsact` (tc(8)): which program is there.

use std::io::{self, Read as _, Write as _};

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

/// `NLM_F_REQUEST | NLM_F_DUMP`, and the kinds of messages that end a list.
const LIST: u16 = 1 | 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;

/// The ids of the programs of filters that the kernel asks about what comes in by an interface, in their order, up to that of this
/// program. A filter without a program counts as 0.
pub(crate) fn filters_before(device: u32, program: u32) -> io::Result<Vec<u32>> {
    let mut body = vec![0; 4];
    body.extend(device.to_ne_bytes());
    body.extend([0; 4]);
    body.extend(INGRESS.to_ne_bytes());
    body.extend([0; 4]);
    let mut question = u32::try_from(HEADER + HEAD).map_err(io::Error::other)?.to_ne_bytes().to_vec();
    question.extend([FILTER_GET.to_ne_bytes(), LIST.to_ne_bytes()].concat());
    question.extend([0; 8]);
    question.extend(body);
    let router = Router::open()?;
    (&router.0).write_all(&question)?;
    let (mut found, mut room) = (Vec::new(), vec![0; 32 * 1024]);
    loop {
        let size = (&router.0).read(&mut room)?;
        let mut rest = room.get(..size).unwrap_or_default();
        while let Some((length, kind)) = head(rest) {
            let message = rest.get(HEADER..length).unwrap_or_default();
            match kind {
                FILTER_NEW => found.extend(program_of(message)),
                // No such interface, or no `clsact`.
                ERROR | DONE => {
                    let ours = found.iter().position(|id| *id == program);
                    found.truncate(ours.unwrap_or(found.len()));
                    return Ok(found);
                }
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Length and kind of the first of some messages.
fn head(messages: &[u8]) -> Option<(usize, u16)> {
    let length = messages.first_chunk().copied().map(u32::from_ne_bytes)?;
    let kind = messages.get(4..)?.first_chunk().copied().map(u16::from_ne_bytes)?;
    usize::try_from(length).ok().filter(|length| *length >= HEADER).map(|length| (length, kind))
}

/// The id of the program of a filter.
fn program_of(message: &[u8]) -> Option<u32> {
    // The first message of each priority has no handle, and is no filter.
    let handle = message.get(8..)?.first_chunk().copied().map(u32::from_ne_bytes)?;
    let id = find(find(message, HEAD, OPTIONS).unwrap_or_default(), 0, PROGRAM);
    let id = id.and_then(|id| id.first_chunk().copied()).map_or(0, u32::from_ne_bytes);
    (handle != 0).then_some(id)
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
        assert_eq!(head(&[]), None);
        assert_eq!(head(&[16, 0, 0, 0, 44]), None);
        // Shorter than its own head: nobody comes to an end with that.
        assert_eq!(head(&[0; 16]), None);
        assert_eq!(program_of(&[0; 11]), None);
    }
}
