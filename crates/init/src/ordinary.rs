//! What children begin with.
#![allow(unsafe_code, reason = "no library offers these calls")]

use std::io;

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
