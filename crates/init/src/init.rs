//! PID 1 of the namespace every agent of the node lives in: starts them, collects the dead, and
//! keeps their exit statuses for a daemon that was away. When the guard dies the kernel kills this
//! process, and with it, without any code of ours, everything in the namespace.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
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
    process::{Pid, PidfdFlags, WaitOptions, pidfd_open, wait},
};

use crate::spawn::{Spawn, children_are_ordinary};

/// Starts that may be known at once.
const KEYS_MAX: usize = 16_384;
/// A daemon that does not read for this long is cut off; it asks again when it is back.
const PATIENCE: Duration = Duration::from_secs(1);

enum Known {
    Running(Pid),
    Exited(i32),
}

/// Whether root is at the other end of a socket. Its pid may have no number in this namespace.
fn from_root(socket: &impl AsFd) -> bool {
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

struct Init {
    known: BTreeMap<String, Known>,
    daemon: Option<OwnedFd>,
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
    let mut init = Init { known: BTreeMap::new(), daemon: None };
    loop {
        init.turn(&deaths, &listener)?;
    }
}

impl Init {
    fn turn(&mut self, deaths: &SignalFd, listener: &OwnedFd) -> io::Result<()> {
        let mut fds = vec![
            PollFd::new(deaths.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(daemon) = &self.daemon {
            fds.push(PollFd::new(daemon.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            other => other?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[0] {
            while deaths.read_signal()?.is_some() {}
            self.collect();
        }
        if ready[1] {
            let daemon = accept_with(listener, SocketFlags::CLOEXEC)?;
            set_socket_timeout(&daemon, Timeout::Send, Some(PATIENCE))?;
            if from_root(&daemon) {
                // The newest daemon counts; an older one is gone or should be.
                self.daemon = Some(daemon);
                return Ok(());
            }
        }
        if ready.get(2) == Some(&true)
            && let Some(daemon) = self.daemon.take()
            && let Ok(Some((request, descriptors))) = receive(&daemon)
        {
            self.daemon = Some(daemon);
            self.answer(request, &descriptors);
        }
        Ok(())
    }

    fn tell(&mut self, report: &Report, pidfd: Option<&OwnedFd>) {
        let beside: Vec<_> = pidfd.iter().map(|fd| fd.as_fd()).collect();
        if let Some(daemon) = &self.daemon
            && send(daemon, report, &beside).is_err()
        {
            self.daemon = None;
        }
    }

    /// Takes every dead child, those of agents' own that lost their parents too.
    fn collect(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let found = self.known.iter_mut().find(|(_, known)| match known {
                Known::Running(running) => *running == pid,
                Known::Exited(_) => false,
            });
            if let Some((key, known)) = found {
                *known = Known::Exited(status.as_raw());
                let report = Report::Exited(key.clone(), status.as_raw());
                self.tell(&report, None);
            }
        }
    }

    fn answer(&mut self, request: Request, descriptors: &[OwnedFd]) {
        match request {
            Request::Launch(key) => match self.launch(&key, descriptors) {
                Ok(pidfd) => self.tell(&Report::Launched(key), Some(&pidfd)),
                Err(why) => self.tell(&Report::Failed(key, why.to_string()), None),
            },
            Request::List => {
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

    fn launch(&mut self, key: &str, descriptors: &[OwnedFd]) -> io::Result<OwnedFd> {
        let [program, input, output, group] = descriptors else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if self.known.contains_key(key) || self.known.len() >= KEYS_MAX {
            return Err(io::Error::other("the key is in use, or too many are"));
        }
        let (program, input) = (program.as_fd(), input.as_fd());
        let (output, group) = (output.as_fd(), group.as_fd());
        let (pid, pidfd) = Spawn { program, input, output, group }.spawn()?;
        self.known.insert(key.to_owned(), Known::Running(pid));
        Ok(pidfd)
    }
}
