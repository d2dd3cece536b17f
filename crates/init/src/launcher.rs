//! The process that makes agents: it has read and linked its program once, so that a start costs a
//! fork and not an execution more.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    process::{Command, Stdio},
};

use fleet_init::{Report, Request, receive, send};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, socketpair,
    sockopt::{Timeout, set_socket_timeout},
};

use crate::init::PATIENCE;

/// A launcher that runs.
pub(crate) struct Launcher {
    /// Device and number of its program's file.
    program: (u64, u64),
    socket: OwnedFd,
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
        Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .env_clear()
            .stdin(its)
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { program: identity(program)?, socket })
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

    /// What it says next; none when it is gone.
    pub(crate) fn hear(&self) -> Option<(Report, Vec<OwnedFd>)> {
        receive(&self.socket).ok().flatten()
    }
}

impl AsFd for Launcher {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
