//! The process that makes agents: it has read and linked its program once, so that a start costs a
//! fork and not an execution more.

use std::{
    fs::File,
    io::{
        self,
        ErrorKind::{ConnectionReset, Interrupted},
    },
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    process::{Command, Stdio},
};

use fleet_init::{Report, Request, receive, send};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    net::{
        AddressFamily, SocketFlags, SocketType, socketpair,
        sockopt::{Timeout, set_socket_timeout},
    },
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::init::PATIENCE;

/// A launcher that runs.
pub(crate) struct Launcher {
    /// Device and number of its program's file.
    program: (u64, u64),
    socket: OwnedFd,
    pidfd: OwnedFd,
}

/// Whether a process has ended.
pub(crate) fn has_ended(pidfd: &OwnedFd, patience: PollTimeout) -> bool {
    let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut ended, patience).is_ok_and(|ended| ended > 0)
}

fn identity(program: &File) -> io::Result<(u64, u64)> {
    let about = program.metadata()?;
    Ok((about.dev(), about.ino()))
}

impl Launcher {
    /// Starts one.
    pub(crate) fn start(program: &File) -> io::Result<Self> {
        let (seqpacket, cloexec) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (socket, its) = socketpair(AddressFamily::UNIX, seqpacket, cloexec, None)?;
        for waits in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&socket, waits, Some(PATIENCE))?;
        }
        // Collected like any child of init.
        let process = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .env_clear()
            .stdin(its)
            .stdout(Stdio::null())
            .spawn()?;
        let pidfd = pidfd_open(Pid::from_child(&process), PidfdFlags::empty())?;
        Ok(Self { program: identity(program)?, socket, pidfd })
    }

    /// Ends it, so that it makes no process any more of which nobody would hear.
    pub(crate) fn end(&self) {
        // One that has ended cannot be killed.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        has_ended(&self.pidfd, PATIENCE.try_into().unwrap_or(PollTimeout::NONE));
    }

    /// Whether it is one of this program.
    pub(crate) fn is_of(&self, program: &File) -> bool {
        identity(program).is_ok_and(|program| program == self.program)
    }

    /// Has a process made, with this input and output and in this control group; what became of it
    /// is heard later.
    pub(crate) fn launch(&self, key: &str, descriptors: &[OwnedFd]) -> io::Result<()> {
        let beside: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        send(&self.socket, &Request::Launch(key.to_owned()), &beside)
    }

    /// What it says next; none when it is gone, or says nothing for long.
    pub(crate) fn hear(&self) -> Option<(Report, Vec<OwnedFd>)> {
        loop {
            match receive(&self.socket) {
                // That it left requests unread is told once, before what it said.
                Err(e) if matches!(e.kind(), Interrupted | ConnectionReset) => {}
                heard => return heard.ok().flatten(),
            }
        }
    }
}

impl AsFd for Launcher {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
