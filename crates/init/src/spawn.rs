//! Making a process that is in its control group from its first instruction. Moving one there
//! later makes the kernel wait for all processors: 20 ms, which no other start may use meanwhile.
#![allow(unsafe_code, reason = "no library offers clone3 with a control group")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use fleet_init::LAUNCH_FAILED;
use rustix::process::Pid;

/// Of `linux/sched.h`; libc's is too short for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What a process is made of.
pub(crate) struct Spawn<'a> {
    pub(crate) program: BorrowedFd<'a>,
    pub(crate) input: BorrowedFd<'a>,
    /// Its standard output and error.
    pub(crate) output: BorrowedFd<'a>,
    /// The directory of its control group.
    pub(crate) group: BorrowedFd<'a>,
}

/// Children begin with the scheduling of an ordinary process, whatever this one has.
pub(crate) fn children_are_ordinary() -> io::Result<()> {
    // SAFETY: both calls only read and set attributes of this thread; `param` outlives them.
    unsafe {
        let mut param = libc::sched_param { sched_priority: 0 };
        let policy = libc::sched_getscheduler(0);
        if policy < 0
            || libc::sched_getparam(0, &raw mut param) < 0
            || libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const param) < 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

impl Spawn<'_> {
    /// Starts it, with an empty environment; answers its number and a descriptor of it.
    pub(crate) fn spawn(&self) -> io::Result<(Pid, OwnedFd)> {
        let mut pidfd: RawFd = -1;
        // SAFETY: all zeroes is a valid `clone_args`: nothing asked for.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP;
        args.pidfd = &raw mut pidfd as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        args.cgroup = self.group.as_raw_fd() as u64;
        let descriptors =
            [self.input, self.output, self.output, self.program].map(|fd| fd.as_raw_fd());
        // SAFETY: as `fork`: the child has a copy of everything, of this process's only thread.
        // It makes system calls alone, on values from before, until it is another program or gone.
        unsafe {
            match libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) {
                0 => exec(descriptors),
                pid if pid > 0 => {
                    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                    let pid = pid.ok_or_else(|| io::Error::other("pid out of range"))?;
                    Ok((pid, OwnedFd::from_raw_fd(pidfd)))
                }
                _ => Err(io::Error::last_os_error()),
            }
        }
    }
}

/// Becomes the program, or nothing. None of the descriptors is 0, 1 or 2: those are taken.
unsafe fn exec([input, output, errors, program]: [RawFd; 4]) -> ! {
    let arguments = [c"fleet-launch".as_ptr().cast_mut(), std::ptr::null_mut()];
    let environment = [std::ptr::null_mut()];
    // SAFETY: the arrays end with null and outlive the call, as do the texts.
    unsafe {
        for (number, descriptor) in (0..).zip([input, output, errors]) {
            if libc::dup2(descriptor, number) < 0 {
                libc::_exit(LAUNCH_FAILED.into());
            }
        }
        libc::execveat(
            program,
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        libc::_exit(LAUNCH_FAILED.into())
    }
}
