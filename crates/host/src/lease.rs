//! The right to run agents, and its end.
//!
//! [`Deadline`] is the one interface between "until when" and "then nothing runs". `fleet-guard`
//! enforces it where it runs (see [`crate::guard`]). Without one the daemon does: a thread of
//! real-time priority waits on `CLOCK_BOOTTIME` and kills the node's whole control group when the
//! lease is over. That covers a cut network and a busy runtime, not a daemon that is itself paused.

use std::{
    io,
    sync::{Arc, Mutex},
};

use fleet_process::Group;
use fleet_runtime::clock::boot_ms;
use fleet_types::Epoch;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::sync::watch;

/// A lease that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The node's epoch.
    pub epoch: Epoch,
    /// When it ends, in milliseconds of `CLOCK_BOOTTIME`.
    pub deadline_ms: u64,
}

/// Ends everything the node runs when its lease does.
pub trait Deadline: Send + Sync {
    /// Prolongs the lease to `lease`. One of an older epoch, or that would end earlier, changes
    /// nothing.
    fn extend(&self, lease: Lease);

    /// The lease in force, if there is one.
    fn current(&self) -> Option<Lease>;

    /// Ends the lease now.
    fn end(&self);

    /// Changes to none once the lease is over and nothing runs any more.
    fn watch(&self) -> watch::Receiver<Option<Lease>>;
}

struct Shared {
    timer: rustix::fd::OwnedFd,
    lease: Mutex<Option<Lease>>,
    announced: watch::Sender<Option<Lease>>,
}

/// A [`Deadline`] enforced by a thread of this process.
#[derive(Clone)]
pub struct DaemonDeadline {
    shared: Arc<Shared>,
}

fn at(ms: u64) -> Itimerspec {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let (seconds, rest) = (ms / 1_000, ms % 1_000);
    let value = Timespec {
        tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(rest).unwrap_or(0) * 1_000_000,
    };
    Itimerspec { it_interval: zero, it_value: value }
}

impl DaemonDeadline {
    /// Starts the enforcing thread over `group`, the parent of every agent's group.
    ///
    /// # Errors
    /// When the kernel gives no timer or no thread.
    pub fn start(group: Group) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
        let (announced, _) = watch::channel(None);
        let shared = Arc::new(Shared { timer, lease: Mutex::new(None), announced });
        let enforced = shared.clone();
        std::thread::Builder::new().name("lease-deadline".into()).spawn(move || {
            if let Err(error) = real_time() {
                tracing::warn!(%error, "no real-time priority; a busy machine may end late");
            }
            loop {
                enforce(&enforced, &group);
            }
        })?;
        Ok(Self { shared })
    }

    fn set(&self, ms: u64) {
        let armed = timerfd_settime(&self.shared.timer, TimerfdTimerFlags::ABSTIME, &at(ms));
        if let Err(error) = armed {
            tracing::error!(%error, "the lease timer does not take a deadline; stopping");
            std::process::abort();
        }
    }
}

/// Priority over every ordinary process, so that agents that use every core cannot delay their
/// own end.
fn real_time() -> io::Result<()> {
    let thread = rustix::thread::gettid();
    let path = format!("/proc/self/task/{}", thread.as_raw_nonzero());
    if !std::path::Path::new(&path).exists() {
        return Err(io::Error::other("no such thread"));
    }
    let status = std::process::Command::new("chrt")
        .args(["--fifo", "--pid", "1", &thread.as_raw_nonzero().to_string()])
        .status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("chrt failed")) }
}

/// Waits for the timer, then ends what runs if the lease is over.
fn enforce(shared: &Shared, group: &Group) {
    let mut expirations = [0; 8];
    if rustix::io::read(&shared.timer, &mut expirations).is_err() {
        return;
    }
    let mut lease = shared.lease.lock().expect("no holder panics");
    if lease.is_none_or(|lease| boot_ms() < lease.deadline_ms) {
        return;
    }
    *lease = None;
    drop(lease);
    // Killing may meet a process that is just being made; so kill until it is empty.
    loop {
        let ended = group.kill().and_then(|()| group.emptied_blocking());
        match ended {
            Ok(()) => break,
            Err(error) => tracing::error!(%error, "ending the agents failed; trying again"),
        }
    }
    tracing::warn!("the lease is over: every agent of this node was ended");
    shared.announced.send_replace(None);
}

impl Deadline for DaemonDeadline {
    fn extend(&self, new: Lease) {
        let mut lease = self.shared.lease.lock().expect("no holder panics");
        let older = lease.is_some_and(|held| {
            new.epoch < held.epoch
                || (new.epoch == held.epoch && new.deadline_ms <= held.deadline_ms)
        });
        if older || new.deadline_ms <= boot_ms() {
            return;
        }
        *lease = Some(new);
        self.set(new.deadline_ms);
        self.shared.announced.send_replace(Some(new));
    }

    fn current(&self) -> Option<Lease> {
        let lease = *self.shared.lease.lock().expect("no holder panics");
        lease.filter(|lease| boot_ms() < lease.deadline_ms)
    }

    fn end(&self) {
        let mut lease = self.shared.lease.lock().expect("no holder panics");
        if let Some(lease) = lease.as_mut() {
            lease.deadline_ms = 0;
            self.set(1);
        }
    }

    fn watch(&self) -> watch::Receiver<Option<Lease>> {
        self.shared.announced.subscribe()
    }
}
