//! A lease on what leaves the node.
//!
//! A program in the kernel looks at each packet of a control group's sockets, and drops it once the
//! lease is over. A connection stays of the group of the process that made it, also when that is
//! dead and the kernel goes on to send what it wrote. Nothing has to run at the deadline.
//!
//! The instructions are few enough to be written down, so no compiler for such programs is needed.
#![allow(unsafe_code, reason = "no library loads a program that is not in a file of its own")]

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use crate::Group;

/// Of `linux/bpf.h`, as everything here: commands, kinds of maps and programs.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const MAP_ARRAY: u32 = 2;
const PROG_CGROUP_SKB: u32 = 8;
const CGROUP_INET_EGRESS: u32 = 1;

/// Nanoseconds of `CLOCK_BOOTTIME` (Linux 5.8).
const KTIME_GET_BOOT_NS: i32 = 125;
/// That a constant is the address of a map's value.
const MAP_VALUE: u8 = 2;

/// An instruction. <https://docs.kernel.org/bpf/standardization/instruction-set.html>
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper, on a little-endian machine. Another
    /// refuses the program.
    registers: u8,
    offset: i16,
    constant: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, constant: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, constant }
}

const INSTRUCTIONS: u32 = 9;

/// Answers 1, which lets the packet pass, before the time in the map's value, and 0 after.
const fn program(map: RawFd) -> [Instruction; INSTRUCTIONS as usize] {
    [
        instruction(0x85, 0, 0, 0, KTIME_GET_BOOT_NS), // r0 = now
        instruction(0xbf, 6, 0, 0, 0),                 // r6 = r0
        instruction(0x18, 1, MAP_VALUE, 0, map),       // r1 = address of the value
        instruction(0, 0, 0, 0, 0),                    // its second half
        instruction(0x79, 1, 1, 0, 0),                 // r1 = the value
        instruction(0xb7, 0, 0, 0, 1),                 // r0 = 1
        instruction(0xad, 6, 1, 1, 0),                 // past the next if r6 < r1
        instruction(0xb7, 0, 0, 0, 0),                 // r0 = 0
        instruction(0x95, 0, 0, 0, 0),                 // answer r0
    ]
}

/// What the commands are given: the first fields of the kernel's union, the rest is nothing.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    at: u64,
    license: u64,
    log: [u32; 4],
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attached: u32,
}

#[repr(C)]
struct ProgAttach {
    group: u32,
    program: u32,
    attached: u32,
    flags: u32,
}

/// The system call.
///
/// # Safety
/// `Given` is laid out as the command expects it, and its addresses are of memory that lasts.
unsafe fn bpf<Given>(command: libc::c_int, given: &Given) -> io::Result<RawFd> {
    // SAFETY: as above; the kernel reads as many bytes as it is told.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(given), size_of::<Given>())
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(answer).map_err(io::Error::other)
}

fn number(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// Until when processes of the control groups it covers, and those that were, may send. It goes on
/// without this process, until it is over.
#[derive(Debug)]
pub struct EgressLease {
    deadline: OwnedFd,
    program: OwnedFd,
}

impl EgressLease {
    /// A lease to `deadline_ms` of `CLOCK_BOOTTIME`.
    ///
    /// # Errors
    /// When this kernel has none.
    pub fn new(deadline_ms: u64) -> io::Result<Self> {
        let map = MapCreate { kind: MAP_ARRAY, key_bytes: 4, value_bytes: 8, entries: 1 };
        // SAFETY: the fields are the kernel's, and the descriptor is new.
        let deadline = unsafe { OwnedFd::from_raw_fd(bpf(MAP_CREATE, &map)?) };
        let instructions = program(deadline.as_raw_fd());
        let load = ProgLoad {
            kind: PROG_CGROUP_SKB,
            instructions: INSTRUCTIONS,
            at: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log: [0; 4],
            kernel: 0,
            flags: 0,
            name: *b"fleet_lease\0\0\0\0\0",
            interface: 0,
            attached: CGROUP_INET_EGRESS,
        };
        // SAFETY: as above; instructions and license outlast the call.
        let program = unsafe { OwnedFd::from_raw_fd(bpf(PROG_LOAD, &load)?) };
        let lease = Self { deadline, program };
        lease.extend(deadline_ms)?;
        Ok(lease)
    }

    /// Has it cover `group`, in place of another.
    ///
    /// # Errors
    /// When whoever set up a group above does not allow it.
    pub fn cover(&self, group: &Group) -> io::Result<()> {
        let group = File::open(group.path())?;
        let attach = ProgAttach {
            group: number(&group),
            program: number(&self.program),
            attached: CGROUP_INET_EGRESS,
            flags: 0,
        };
        // SAFETY: the fields are the kernel's.
        unsafe { bpf(PROG_ATTACH, &attach) }.map(drop)
    }

    /// Has `group` covered by none.
    ///
    /// # Errors
    /// When the kernel refuses; a group that none covers is no error.
    pub fn lift(group: &Group) -> io::Result<()> {
        let group = File::open(group.path())?;
        // The one there is, whichever it is.
        let detach = ProgAttach {
            group: number(&group),
            program: u32::MAX,
            attached: CGROUP_INET_EGRESS,
            flags: 0,
        };
        // SAFETY: the fields are the kernel's.
        match unsafe { bpf(PROG_DETACH, &detach) } {
            // Or of a kernel without such programs.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENOSYS)) =>
            {
                Ok(())
            }
            done => done.map(drop),
        }
    }

    /// Moves the deadline.
    ///
    /// # Errors
    /// None that is known.
    pub fn extend(&self, deadline_ms: u64) -> io::Result<()> {
        let (first, deadline_ns) = (0_u32, deadline_ms.saturating_mul(1_000_000));
        let update = MapUpdate {
            map: number(&self.deadline),
            padding: 0,
            key: std::ptr::from_ref(&first) as u64,
            value: std::ptr::from_ref(&deadline_ns) as u64,
            flags: 0,
        };
        // SAFETY: the fields are the kernel's; key and value are of the sizes of the map's.
        unsafe { bpf(MAP_UPDATE, &update) }.map(drop)
    }
}
