//! What ends this process while it changes its program: a timer that survives that, as the guard's
//! own does not. Libraries offer `alarm`, which counts whole seconds, more than a short lease has.
//!
//! What it does not cover, for the milliseconds until the new program has set its own: a process
//! that is stopped then ends only when it goes on, and a machine that sleeps does not count.
#![allow(unsafe_code, reason = "no library offers setitimer")]

use std::{io, ptr, time::Duration};

use nix::libc;

/// Has the kernel end this process after `left`; never, when that is nothing.
pub(crate) fn end_after(left: Duration) -> io::Result<()> {
    let tv_sec = libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX);
    let it_value = libc::timeval { tv_sec, tv_usec: left.subsec_micros().into() };
    let once = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: once, it_value };
    // SAFETY: reads `timer`, which outlives the call, and writes nothing.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
