//! How the daemon speaks with `fleet-init`, the process that starts a node's agents and outlives
//! the daemon. See the binary for what it does.
//!
//! A Unix socket of type `SEQPACKET`: one packet a message, its words apart by spaces, file
//! descriptors beside them. The daemon asks ([`Request`]); init answers, and tells of exits by
//! itself ([`Report`]).
#![forbid(unsafe_code)]

use std::{
    fmt, io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    str::FromStr,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Longest packet, in bytes.
pub const PACKET_BYTES_MAX: usize = 1_024;
/// Exit code of a launcher that failed before it became the agent.
pub const LAUNCH_FAILED: u8 = 125;
/// Exit code of a launcher that its node kept from becoming the agent: it holds no lease, or its disk
/// is full.
pub const LAUNCH_HINDERED: u8 = 122;
/// Descriptors beside one packet.
const DESCRIPTORS_MAX: usize = 4;

/// What the daemon asks. A key names one start of one agent; it has no spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Has the launcher given as the first descriptor make a process with the second as its
    /// standard input and the third as its output and error, in the control group whose directory
    /// is the fourth. Answered `Launched` or `Failed`. The launcher, a program, runs from the first
    /// request on, with a socket as its standard input. It is sent the request with the other
    /// three, makes the process, a sibling of its own, and answers `Born` or `Failed`.
    Launch(String),
    /// Answered by a `Running` or `Exited` for every key known, then `Listed`.
    List,
    /// Forgets a key whose process has exited. Not answered.
    Forget(String),
}

/// What init says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Made, under this number in init's namespace; with a pidfd. Said by the launcher alone.
    Born(String, i32),
    /// Started; with a pidfd.
    Launched(String),
    /// Not started, and why.
    Failed(String, String),
    /// Runs; with a pidfd.
    Running(String),
    /// Ended, with the status `wait` gives.
    Exited(String, i32),
    /// The list is complete.
    Listed,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launch(key) => write!(f, "launch {key}"),
            Self::List => f.write_str("list"),
            Self::Forget(key) => write!(f, "forget {key}"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Born(key, pid) => write!(f, "born {key} {pid}"),
            Self::Launched(key) => write!(f, "launched {key}"),
            Self::Failed(key, why) => write!(f, "failed {key} {why}"),
            Self::Running(key) => write!(f, "running {key}"),
            Self::Exited(key, status) => write!(f, "exited {key} {status}"),
            Self::Listed => f.write_str("listed"),
        }
    }
}

/// A text that is not a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl FromStr for Request {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.split(' ').collect::<Vec<_>>().as_slice() {
            ["launch", key] => Ok(Self::Launch((*key).into())),
            ["list"] => Ok(Self::List),
            ["forget", key] => Ok(Self::Forget((*key).into())),
            _ => Err(Malformed),
        }
    }
}

impl FromStr for Report {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.splitn(3, ' ').collect::<Vec<_>>().as_slice() {
            ["born", key, pid] => {
                Ok(Self::Born((*key).into(), pid.parse().map_err(|_| Malformed)?))
            }
            ["launched", key] => Ok(Self::Launched((*key).into())),
            ["failed", key, why] => Ok(Self::Failed((*key).into(), (*why).into())),
            ["running", key] => Ok(Self::Running((*key).into())),
            ["exited", key, status] => {
                Ok(Self::Exited((*key).into(), status.parse().map_err(|_| Malformed)?))
            }
            ["listed"] => Ok(Self::Listed),
            _ => Err(Malformed),
        }
    }
}

/// Sends one message.
///
/// # Errors
/// When it is too long, or the other side is gone or does not read.
pub fn send(
    socket: impl AsFd,
    message: &impl fmt::Display,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = message.to_string();
    if text.len() > PACKET_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message, and what lies beside it; none when the other side is gone.
///
/// # Errors
/// When the kernel refuses, or it is not a message.
pub fn receive<T: FromStr>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(given) = message {
            descriptors.extend(given);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let text = std::str::from_utf8(&bytes[..received.bytes]).ok();
    let message = text.and_then(|text| text.parse().ok());
    message.map(|message| Some((message, descriptors))).ok_or(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_socket() {
        let (a, b) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let key = "demo/a1:3:0:1".to_owned();
        for request in [Request::Launch(key.clone()), Request::List, Request::Forget(key.clone())] {
            send(&a, &request, &[a.as_fd(); 4]).unwrap();
            let (received, descriptors) = receive::<Request>(&b).unwrap().unwrap();
            assert_eq!((received, descriptors.len()), (request, 4));
        }
        for report in [
            Report::Born(key.clone(), 7),
            Report::Launched(key.clone()),
            Report::Failed(key.clone(), "no such file".into()),
            Report::Running(key.clone()),
            Report::Exited(key, 256),
            Report::Listed,
        ] {
            send(&a, &report, &[]).unwrap();
            assert_eq!(receive::<Report>(&b).unwrap().unwrap().0, report);
        }
        send(&a, &"exited x not-a-number", &[]).unwrap();
        assert!(receive::<Report>(&b).is_err());
        drop(a);
        assert!(receive::<Report>(&b).unwrap().is_none());
    }
}
