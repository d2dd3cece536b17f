//! Making a process that is in its control group from its first instruction. Moving one there
//! later makes the kernel wait for all processors: 20 ms, which no other start may use meanwhile.
#![allow(unsafe_code, reason = "no library offers clone3 with a control group")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// Of `linux/sched.h`; libc's is too short for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// One of the two that a birth leaves.
pub(crate) enum Born {
    /// This is the new process.
    Child,
    /// This is the old one; the number of the new one, and a descriptor of it.
    Parent(i32, OwnedFd),
}

/// Makes a process like this one, as `fork` does, in the control group with this directory. Its
/// parent is this one's.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn bear(group: BorrowedFd<'_>) -> io::Result<Born> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all zeroes is a valid `clone_args`: nothing asked for. The signal of its end is that
    // of this process's.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PARENT as u64 | libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP;
    args.pidfd = &raw mut pidfd as u64;
    args.cgroup = group.as_raw_fd() as u64;
    // SAFETY: as `fork`: the child has a copy of everything, and this process has one thread, so no
    // lock is held in it by one that is not there.
    unsafe {
        match libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) {
            0 => Ok(Born::Child),
            pid if pid > 0 => {
                let pid = i32::try_from(pid).map_err(io::Error::other)?;
                Ok(Born::Parent(pid, OwnedFd::from_raw_fd(pidfd)))
            }
            _ => Err(io::Error::last_os_error()),
        }
    }
}
