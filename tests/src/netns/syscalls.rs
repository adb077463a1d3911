//! Counting the system calls of a process, without slowing it down.

use std::io;
use std::os::fd::OwnedFd;

use super::sys::{BpfMap, address, address_of_room, bpf_object, number};

/// Counts the system calls that a process begins, as long as it lives.
#[derive(Debug)]
pub struct SyscallCount {
    counter: BpfMap,
    _attached: OwnedFd,
}

/// One BPF instruction (`struct bpf_insn`).
const fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> u64 {
    u64::from_le_bytes([
        code,
        target | source << 4,
        offset.to_le_bytes()[0],
        offset.to_le_bytes()[1],
        value.to_le_bytes()[0],
        value.to_le_bytes()[1],
        value.to_le_bytes()[2],
        value.to_le_bytes()[3],
    ])
}

impl SyscallCount {
    /// Begins to count those of process `pid`, as the first PID namespace numbers it.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn of(pid: u32) -> io::Result<Self> {
        let counter = BpfMap::of_one_counter()?;
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        let map = i32::try_from(number(&counter.fd)?).map_err(io::Error::other)?;
        let program = [
            // r0 = bpf_get_current_pid_tgid() >> 32; not that process: leave.
            instruction(0x85, 0, 0, 0, 14),
            instruction(0x77, 0, 0, 0, 32),
            instruction(0x55, 0, 0, 10, pid),
            // r0 = bpf_map_lookup_elem(map, &0)
            instruction(0x62, 10, 0, -4, 0),
            instruction(0xbf, 2, 10, 0, 0),
            instruction(0x07, 2, 0, 0, -4),
            instruction(0x18, 1, 1, 0, map),
            instruction(0, 0, 0, 0, 0),
            instruction(0x85, 0, 0, 0, 1),
            instruction(0x15, 0, 0, 3, 0),
            // *r0 += 1, atomically.
            instruction(0xb7, 1, 0, 0, 1),
            instruction(0xdb, 0, 1, 0, 0),
            instruction(0xb7, 0, 0, 0, 0),
            instruction(0xb7, 0, 0, 0, 0),
            instruction(0x95, 0, 0, 0, 0),
        ];
        let program = load(&program)?;
        let attached = attach(&program, c"sys_enter".to_bytes_with_nul())?;
        Ok(Self { counter, _attached: attached })
    }

    /// How many there were so far.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn read(&self) -> io::Result<u64> {
        let mut value = [0_u64];
        // BPF_MAP_LOOKUP_ELEM
        self.counter.element(1, address(&0_u32.to_ne_bytes()), address_of_room(&mut value), 0)?;
        Ok(value[0])
    }
}

fn load(instructions: &[u64]) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` that BPF_PROG_LOAD needs.
    #[repr(C)]
    struct Load {
        kind: u32,
        length: u32,
        instructions: u64,
        license: u64,
    }
    /// BPF_PROG_TYPE_RAW_TRACEPOINT
    const KIND: u32 = 17;
    let license = c"GPL";
    let length = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    let (instructions, license) = (address(instructions), address(license.to_bytes_with_nul()));
    bpf_object(5, &mut Load { kind: KIND, length, instructions, license })
}

fn attach(program: &OwnedFd, tracepoint: &[u8]) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` that BPF_RAW_TRACEPOINT_OPEN needs.
    #[repr(C)]
    struct Open {
        name: u64,
        program: u32,
        padding: u32,
    }
    bpf_object(17, &mut Open { name: address(tracepoint), program: number(program)?, padding: 0 })
}
