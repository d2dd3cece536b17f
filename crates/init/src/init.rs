//! PID 1 of the namespace every agent of the node lives in: has them started, collects the dead,
//! and keeps their exit statuses for a daemon that was away. When the guard dies the kernel kills
//! this process, and with it, without any code of ours, everything in the namespace.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use fleet_init::{Report, Request, receive, send};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
};
use rustix::{
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
        socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
    process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, wait, waitpid},
};

use crate::{
    launcher::{Launcher, has_ended},
    ordinary::children_are_ordinary,
};

/// Numbers below this are not given again (`RESERVED_PIDS` of the kernel).
const FIRST_PID: u32 = 300;
/// Starts that may be known at once.
const KEYS_MAX: usize = 16_384;
/// A daemon that does not read for this long is cut off; it asks again when it is back.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// A launcher that is asked and says nothing for so long is ended; the next launch starts another.
const LAUNCH: Duration = Duration::from_secs(10);
/// Children that ended with another are looked for after the next event, or after so many
/// milliseconds.
const SWEEP_AFTER: u8 = 1;

enum Known {
    Running(Pid),
    Exited(i32),
}

/// Whether root is at the other end of a socket. Its pid may have no number in this namespace.
fn from_root(socket: &impl AsFd) -> bool {
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

/// Has processes of this namespace numbered from anywhere on. Agents note in their HOME which process
/// held it last, and wait as long as that seems to run: in the namespace before, many had the low
/// numbers that others would have now. See `pid_namespaces(7)`, `/proc/sys/kernel/ns_last_pid`.
fn number_anew() -> io::Result<()> {
    let most = fs::read_to_string("/proc/sys/kernel/pid_max")?;
    let most: u32 = most.trim().parse().map_err(io::Error::other)?;
    let mut random = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    // The kernel keeps the lowest for itself once it begins anew.
    let last = FIRST_PID + u32::from_ne_bytes(random) % (most - FIRST_PID).max(1);
    fs::write("/proc/sys/kernel/ns_last_pid", last.to_string())
}

struct Init {
    known: BTreeMap<String, Known>,
    daemon: Option<OwnedFd>,
    launcher: Option<Launcher>,
    /// What the launcher was asked to start.
    launching: BTreeSet<String>,
    /// When it was asked while it had nothing to do, or said something.
    heard: Instant,
    /// What ended meanwhile and is not known: one that was started, maybe.
    unknown: HashMap<Pid, i32>,
    /// Whether children may have ended that no signal named.
    unswept: bool,
}

/// Serves on `socket` until the guard dies. Says so on standard output once it does.
pub(crate) fn run(socket: &Path) -> io::Result<()> {
    prctl::set_pdeathsig(Some(Signal::SIGKILL))?;
    // A guard that died before that line left its end of the pipe closed.
    let stdin = io::stdin();
    let mut guard = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    if poll(&mut guard, PollTimeout::ZERO)? != 0 {
        return Err(io::Error::other("the guard is gone"));
    }
    children_are_ordinary()?;
    // Where the kernel cannot do it, numbers begin as low as they did before.
    if std::process::id() == 1
        && let Err(error) = number_anew()
    {
        eprintln!("fleet-init: processes are numbered from the start: {error}");
    }
    let mut deaths = SigSet::empty();
    deaths.add(Signal::SIGCHLD);
    deaths.thread_block()?;
    let deaths = SignalFd::with_flags(&deaths, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&listener, &SocketAddrUnix::new(socket)?)?;
    listen(&listener, 4)?;
    let mut out = io::stdout();
    out.write_all(b"ready\n")?;
    out.flush()?;
    let mut init = Init {
        known: BTreeMap::new(),
        daemon: None,
        launcher: None,
        launching: BTreeSet::new(),
        heard: Instant::now(),
        unknown: HashMap::new(),
        unswept: false,
    };
    loop {
        init.turn(&deaths, &listener)?;
    }
}

impl Init {
    fn turn(&mut self, deaths: &SignalFd, listener: &OwnedFd) -> io::Result<()> {
        let (daemon, launcher) = (self.daemon.as_ref(), self.launcher.as_ref());
        let fds = [
            Some(deaths.as_fd()),
            Some(listener.as_fd()),
            launcher.map(AsFd::as_fd),
            daemon.map(AsFd::as_fd),
        ];
        let mut polled: Vec<PollFd<'_>> =
            fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let unswept = std::mem::take(&mut self.unswept);
        let patience = match () {
            () if unswept => SWEEP_AFTER.into(),
            () if self.launching.is_empty() => PollTimeout::NONE,
            () => LAUNCH.try_into().unwrap_or(PollTimeout::NONE),
        };
        match poll(&mut polled, patience) {
            Err(nix::errno::Errno::EINTR) => {
                self.unswept = unswept;
                return Ok(());
            }
            other => other?,
        };
        let mut polled = polled.iter().map(|fd| fd.any().unwrap_or(false));
        let [died, called, launched, asked] =
            fds.map(|fd| fd.is_some() && polled.next() == Some(true));
        if launched {
            self.hear();
        } else if !self.launching.is_empty() && self.heard.elapsed() >= LAUNCH {
            self.lose_launcher();
        }
        if died {
            // A signal names one of those that ended meanwhile. The kernel finds the others by a
            // look at all children, which comes later: the daemon may start this one again.
            while let Some(death) = deaths.read_signal()? {
                if let Some(pid) = i32::try_from(death.ssi_pid).ok().and_then(Pid::from_raw) {
                    self.take(waitpid(Some(pid), WaitOptions::NOHANG));
                }
            }
            self.unswept = true;
        }
        if called {
            let daemon = accept_with(listener, SocketFlags::CLOEXEC)?;
            set_socket_timeout(&daemon, Timeout::Send, Some(PATIENCE))?;
            if from_root(&daemon) {
                // The newest daemon counts; an older one is gone or should be.
                self.daemon = Some(daemon);
                self.unswept |= unswept;
                return Ok(());
            }
        }
        if asked
            && let Some(daemon) = self.daemon.take()
            && let Ok(Some((request, descriptors))) = receive(&daemon)
        {
            self.daemon = Some(daemon);
            self.answer(request, descriptors);
        }
        while unswept && self.take(wait(WaitOptions::NOHANG)) {}
        Ok(())
    }

    /// Takes in what the launcher says.
    fn hear(&mut self) {
        match self.launcher.as_ref().and_then(Launcher::hear) {
            Some((report, descriptors)) => self.launched(report, descriptors.first()),
            None => self.lose_launcher(),
        }
    }

    fn launched(&mut self, report: Report, pidfd: Option<&OwnedFd>) {
        self.heard = Instant::now();
        match report {
            Report::Born(key, pid) => {
                self.launching.remove(&key);
                let Some((pid, pidfd)) = Pid::from_raw(pid).zip(pidfd) else { return };
                // One that ended before may have had the number.
                let ended = self.unknown.remove(&pid);
                let ended = ended.filter(|_| has_ended(pidfd, PollTimeout::ZERO));
                let now = ended.map_or(Known::Running(pid), Known::Exited);
                self.known.insert(key.clone(), now);
                self.tell(&Report::Launched(key.clone()), Some(pidfd));
                if let Some(status) = ended {
                    self.tell(&Report::Exited(key, status), None);
                }
            }
            Report::Failed(key, why) => {
                self.launching.remove(&key);
                self.tell(&Report::Failed(key, why), None);
            }
            // A launcher says nothing else.
            _ => {}
        }
        if self.launching.is_empty() {
            self.unknown.clear();
        }
    }

    /// Ends the launcher and takes in what it had done.
    fn lose_launcher(&mut self) {
        let Some(launcher) = self.launcher.take() else { return };
        launcher.end();
        while let Some((report, descriptors)) = launcher.hear() {
            self.launched(report, descriptors.first());
        }
        for key in std::mem::take(&mut self.launching) {
            self.tell(&Report::Failed(key, "the launcher ended".into()), None);
        }
        self.unknown.clear();
    }

    fn tell(&mut self, report: &Report, pidfd: Option<&OwnedFd>) {
        let beside: Vec<_> = pidfd.iter().map(|fd| fd.as_fd()).collect();
        if let Some(daemon) = &self.daemon
            && send(daemon, report, &beside).is_err()
        {
            self.daemon = None;
        }
    }

    /// Takes in a dead child, an agent's own that lost its parent maybe. Whether there was one.
    fn take(&mut self, dead: rustix::io::Result<Option<(Pid, WaitStatus)>>) -> bool {
        let Ok(Some((pid, status))) = dead else { return false };
        let found = self.known.iter_mut().find(|(_, known)| match known {
            Known::Running(running) => *running == pid,
            Known::Exited(_) => false,
        });
        if let Some((key, known)) = found {
            *known = Known::Exited(status.as_raw());
            let report = Report::Exited(key.clone(), status.as_raw());
            self.tell(&report, None);
        } else if !self.launching.is_empty() {
            self.unknown.insert(pid, status.as_raw());
        }
        true
    }

    fn answer(&mut self, request: Request, descriptors: Vec<OwnedFd>) {
        match request {
            Request::Launch(key) => match self.launch(&key, descriptors) {
                Ok(()) => {
                    if self.launching.is_empty() {
                        self.heard = Instant::now();
                    }
                    self.launching.insert(key);
                }
                Err(why) => self.tell(&Report::Failed(key, why.to_string()), None),
            },
            Request::List => {
                // Whoever asks is told of all that an earlier daemon had begun.
                while !self.launching.is_empty() {
                    self.hear();
                }
                let known: Vec<(String, Option<i32>)> = self
                    .known
                    .iter()
                    .map(|(key, known)| match known {
                        Known::Running(_) => (key.clone(), None),
                        Known::Exited(status) => (key.clone(), Some(*status)),
                    })
                    .collect();
                for (key, status) in known {
                    match (status, self.pidfd(&key)) {
                        (Some(status), _) => self.tell(&Report::Exited(key, status), None),
                        (None, Some(pidfd)) => self.tell(&Report::Running(key), Some(&pidfd)),
                        (None, None) => {}
                    }
                }
                self.tell(&Report::Listed, None);
            }
            Request::Forget(key) => {
                if let Some(Known::Exited(_)) = self.known.get(&key) {
                    self.known.remove(&key);
                }
            }
        }
    }

    /// Of a child that was not waited for, so its number is still its own.
    fn pidfd(&self, key: &str) -> Option<OwnedFd> {
        match self.known.get(key) {
            Some(Known::Running(pid)) => pidfd_open(*pid, PidfdFlags::empty()).ok(),
            _ => None,
        }
    }

    fn launch(&mut self, key: &str, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let Ok([program, input, output, group]) = <[OwnedFd; 4]>::try_from(descriptors) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let used = self.known.contains_key(key) || self.launching.contains(key);
        if used || self.known.len() + self.launching.len() >= KEYS_MAX {
            return Err(io::Error::other("the key is in use, or too many are"));
        }
        let (program, given) = (File::from(program), [input, output, group]);
        let running = self.launcher.as_ref().filter(|running| running.is_of(&program));
        if running.is_some_and(|running| running.launch(key, &given).is_ok()) {
            return Ok(());
        }
        self.lose_launcher();
        self.launcher.insert(Launcher::start(&program)?).launch(key, &given)
    }
}
