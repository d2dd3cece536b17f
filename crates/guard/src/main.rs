//! `fleet-guard`: ends a node's agents when its lease does, though the daemon be dead or paused.
//!
//! Usage: `fleet-guard SOCKET CGROUP LEASE_MS_MAX`
//!
//! One process, one thread, no runtime. It owns a timer on `CLOCK_BOOTTIME` and a control group:
//! when the timer fires, everything in the group and below is killed, again and again until the
//! group is empty. The daemon prolongs the timer over a socket only root can reach, a line a
//! request and a line an answer:
//!
//! ```text
//! extend EPOCH DEADLINE_MS   the lease of EPOCH lasts until then    held EPOCH DEADLINE_MS
//! end                        the lease ends now                     ending
//! status                     what is held, and if nothing runs      held … | empty | ending
//! ```
//!
//! An older epoch, an earlier deadline and one further away than `LEASE_MS_MAX` are `refused`. A
//! guard that starts kills what it finds: it knows of no lease, so nothing may run.
//!
//! Not here: spawning agents (they are the daemon's children), renewing (the daemon's business).
#![forbid(unsafe_code)]

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        mman::{MlockAllFlags, mlockall},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    time::{ClockId, clock_gettime},
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Longest request; a client that sends more without a line end is cut off.
const REQUEST_BYTES_MAX: usize = 128;
/// Pause between looks at a group that is being emptied, in milliseconds.
const EMPTYING_MS: u16 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    epoch: u64,
    deadline_ms: u64,
}

/// What is held, and what a request makes of it.
#[derive(Debug, Default)]
struct Book {
    lease: Option<Lease>,
    /// Highest epoch ever held: a lapse does not make an older one good again.
    epoch: u64,
}

impl Book {
    fn extend(&mut self, new: Lease, now_ms: u64, max_ms: u64) -> Result<Lease, &'static str> {
        if new.epoch < self.epoch {
            return Err("an older epoch");
        }
        if new.deadline_ms <= now_ms {
            return Err("a deadline that is over");
        }
        if new.deadline_ms > now_ms + max_ms {
            return Err("a deadline too far away");
        }
        let held = self.lease.filter(|held| held.epoch == new.epoch);
        if held.is_some_and(|held| new.deadline_ms < held.deadline_ms) {
            return Err("an earlier deadline");
        }
        self.epoch = new.epoch;
        self.lease = Some(new);
        Ok(new)
    }

    /// Forgets a lease that is over; true when there was none or it is.
    fn over(&mut self, now_ms: u64) -> bool {
        self.lease = self.lease.filter(|held| now_ms < held.deadline_ms);
        self.lease.is_none()
    }
}

fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds * 1_000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000
}

struct Guard {
    group: PathBuf,
    max_ms: u64,
    timer: OwnedFd,
    book: Book,
    /// Whether something may still run though no lease is held.
    emptying: bool,
}

impl Guard {
    fn new(group: &Path, max_ms: u64) -> io::Result<Self> {
        fs::create_dir_all(group)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
        let (group, book) = (group.to_owned(), Book::default());
        Ok(Self { group, max_ms, timer, book, emptying: true })
    }

    fn arm(&self, ms: u64) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let tv_nsec = i64::try_from(ms % 1_000).unwrap_or(0) * 1_000_000;
        let at = Timespec { tv_sec: i64::try_from(ms / 1_000).unwrap_or(i64::MAX), tv_nsec };
        let timer = Itimerspec { it_interval: zero, it_value: at };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &timer)?;
        Ok(())
    }

    /// Kills what is in the group; done once nothing is.
    fn empty(&mut self) {
        let killed = fs::write(self.group.join("cgroup.kill"), "1");
        let events = fs::read_to_string(self.group.join("cgroup.events"));
        match (killed, events) {
            (Ok(()), Ok(events)) if events.lines().any(|line| line == "populated 0") => {
                self.emptying = false;
            }
            (Ok(()), Ok(_)) => {}
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("fleet-guard: {}: {error}", self.group.display());
            }
        }
    }

    fn answer(&mut self, request: &str) -> String {
        let words: Vec<&str> = request.split_whitespace().collect();
        match words.as_slice() {
            ["extend", epoch, deadline] => {
                let (Ok(epoch), Ok(deadline_ms)) = (epoch.parse(), deadline.parse()) else {
                    return "refused not a number".into();
                };
                if self.emptying {
                    return "refused something of the last lease still runs".into();
                }
                let new = Lease { epoch, deadline_ms };
                match self.book.extend(new, boot_ms(), self.max_ms) {
                    Err(why) => format!("refused {why}"),
                    Ok(held) => match self.arm(held.deadline_ms) {
                        Ok(()) => format!("held {} {}", held.epoch, held.deadline_ms),
                        Err(error) => {
                            (self.book.lease, self.emptying) = (None, true);
                            format!("refused the timer: {error}")
                        }
                    },
                }
            }
            ["end"] => {
                (self.book.lease, self.emptying) = (None, true);
                "ending".into()
            }
            ["status"] => match self.book.lease {
                Some(held) => format!("held {} {}", held.epoch, held.deadline_ms),
                None if self.emptying => "ending".into(),
                None => "empty".into(),
            },
            _ => "refused not a request".into(),
        }
    }

    /// Lets time and requests come in; never returns but for an error.
    fn run(mut self, listener: &UnixListener) -> io::Result<()> {
        let mut client: Option<(UnixStream, Vec<u8>)> = None;
        loop {
            if self.book.lease.is_some() && self.book.over(boot_ms()) {
                eprintln!("fleet-guard: the lease is over; ending every agent");
                self.emptying = true;
            }
            let patience = if self.emptying {
                self.empty();
                PollTimeout::from(EMPTYING_MS)
            } else {
                PollTimeout::NONE
            };
            let mut fds = vec![
                PollFd::new(self.timer.as_fd(), PollFlags::POLLIN),
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            ];
            if let Some((stream, _)) = &client {
                fds.push(PollFd::new(stream.as_fd(), PollFlags::POLLIN));
            }
            poll(&mut fds, patience)?;
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            if ready[0] {
                // Only what it announces matters: the time is looked at above.
                let _ = rustix::io::read(&self.timer, &mut [0_u8; 8]);
            }
            if ready[1] {
                let (stream, _) = listener.accept()?;
                // The newest daemon counts; an older one is gone or should be.
                client = from_root(&stream).then_some((stream, Vec::new()));
            }
            if ready.get(2) == Some(&true)
                && let Some((mut stream, mut buffer)) = client.take()
                && self.serve(&mut stream, &mut buffer)
            {
                client = Some((stream, buffer));
            }
        }
    }

    /// Answers what a client sent; false when it is to be cut off.
    fn serve(&mut self, stream: &mut UnixStream, buffer: &mut Vec<u8>) -> bool {
        let mut bytes = [0; REQUEST_BYTES_MAX];
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return false,
            Ok(length) => buffer.extend_from_slice(&bytes[..length]),
        }
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let answer = self.answer(&String::from_utf8_lossy(&line));
            if stream.write_all(format!("{answer}\n").as_bytes()).is_err() {
                return false;
            }
        }
        buffer.len() < REQUEST_BYTES_MAX
    }
}

fn from_root(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

/// Binds the socket in a directory only root can enter.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    let directory = socket.parent().unwrap_or(Path::new("/run"));
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    if UnixStream::connect(socket).is_ok() {
        return Err(io::Error::other("another guard is running"));
    }
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    UnixListener::bind(socket)
}

fn run() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, group, max_ms] = args.as_slice() else {
        return Err(io::Error::other("usage: fleet-guard SOCKET CGROUP LEASE_MS_MAX"));
    };
    let max_ms = max_ms.parse().map_err(|_| io::Error::other("LEASE_MS_MAX is not a number"))?;
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        eprintln!("fleet-guard: degraded: memory is not locked: {error}");
    }
    let listener = listen(Path::new(socket))?;
    Guard::new(Path::new(group), max_ms)?.run(&listener)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet-guard: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(epoch: u64, deadline_ms: u64) -> Lease {
        Lease { epoch, deadline_ms }
    }

    #[test]
    fn only_later_is_taken() {
        let mut book = Book::default();
        assert!(book.extend(lease(5, 1_500), 1_000, 1_000).is_ok());
        assert_eq!(book.extend(lease(4, 1_900), 1_000, 1_000), Err("an older epoch"));
        assert_eq!(book.extend(lease(5, 1_400), 1_000, 1_000), Err("an earlier deadline"));
        assert_eq!(book.extend(lease(5, 2_001), 1_000, 1_000), Err("a deadline too far away"));
        assert_eq!(book.extend(lease(5, 1_000), 1_000, 1_000), Err("a deadline that is over"));
        assert!(book.extend(lease(5, 2_000), 1_000, 1_000).is_ok());
        assert!(!book.over(1_999));
        assert!(book.over(2_000));
        assert_eq!(book.extend(lease(4, 2_500), 2_000, 1_000), Err("an older epoch"));
        assert!(book.extend(lease(6, 2_100), 2_000, 1_000).is_ok());
    }
}
