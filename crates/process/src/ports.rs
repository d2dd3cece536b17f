//! Who holds a port.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv6Addr, SocketAddrV6},
};

use fleet_types::{
    PortBlock,
    limits::{AGENT_UID_FIRST, AGENT_UID_LAST},
};
use procfs::{
    ProcError, ProcResult,
    net::{TcpNetEntry, TcpState, UdpNetEntry, tcp, tcp6, udp, udp6},
    process::{FDTarget, all_processes},
};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, socket_with,
    sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
};

/// A process that holds a port of a block, for streams or datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The port.
    pub port: u16,
    /// The process; none when it cannot be seen from here.
    pub pid: Option<i32>,
    /// Its command name; empty when unknown.
    pub command: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "port {} is taken by pid {pid} ({})", self.port, self.command),
            None => write!(f, "port {} is taken by a process that cannot be seen", self.port),
        }
    }
}

/// Whether every port of `block` can be bound, of both families at once, for streams and for
/// datagrams. Where that is so nobody holds one, which is much quicker to find out than who does.
fn free(block: PortBlock) -> bool {
    let binds = |port, kind| {
        let address = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
        let bound = socket_with(AddressFamily::INET6, kind, SocketFlags::CLOEXEC, None).and_then(
            |socket| {
                set_ipv6_v6only(&socket, false)?;
                if kind == SocketType::STREAM {
                    // A listener is in the way all the same; closed connections are not.
                    set_socket_reuseaddr(&socket, true)?;
                }
                bind(&socket, &address)
            },
        );
        bound.is_ok()
    };
    (block.base..=block.last())
        .all(|port| binds(port, SocketType::STREAM) && binds(port, SocketType::DGRAM))
}

/// A table of sockets; empty where the kernel has none of the family.
fn table<T>(read: ProcResult<Vec<T>>) -> io::Result<Vec<T>> {
    match read {
        Err(ProcError::NotFound(_)) => Ok(Vec::new()),
        other => other.map_err(io::Error::other),
    }
}

/// Sockets for datagrams, but those of agents: no agent can be kept from any port for datagrams, nor
/// may one that takes them all keep others from starting.
fn datagrams() -> io::Result<impl Iterator<Item = UdpNetEntry>> {
    let agents = AGENT_UID_FIRST..=AGENT_UID_LAST;
    let all = table(udp())?.into_iter().chain(table(udp6())?);
    Ok(all.filter(move |entry| !agents.contains(&entry.uid)))
}

/// Who holds the ports of `block`, listening or for datagrams, in port order.
///
/// # Errors
/// When it cannot be told.
pub fn holders(block: PortBlock) -> io::Result<Vec<Holder>> {
    if free(block) {
        return Ok(Vec::new());
    }
    let listening = |entry: &TcpNetEntry| entry.state == TcpState::Listen;
    let streams = table(tcp())?.into_iter().chain(table(tcp6())?).filter(listening);
    let streams = streams.map(|entry| (entry.local_address.port(), entry.inode));
    let datagrams = datagrams()?.map(|entry| (entry.local_address.port(), entry.inode));
    let here = |(port, _): &(u16, u64)| (block.base..=block.last()).contains(port);
    let sockets: BTreeMap<u16, u64> = datagrams.chain(streams).filter(here).collect();
    Ok(sockets.into_iter().map(|(port, inode)| holder(port, inode)).collect())
}

/// Those of `blocks` of which no socket, open or closing, uses a port.
///
/// # Errors
/// When it cannot be told.
pub fn unused(blocks: &[PortBlock]) -> io::Result<Vec<PortBlock>> {
    if blocks.is_empty() {
        return Ok(Vec::new());
    }
    let tables = [table(tcp())?, table(tcp6())?];
    let streams = tables.into_iter().flatten().map(|entry| entry.local_address.port());
    let datagrams = datagrams()?.map(|entry| entry.local_address.port());
    let used: BTreeSet<u16> = streams.chain(datagrams).collect();
    let idle = |block: &&PortBlock| used.range(block.base..=block.last()).next().is_none();
    Ok(blocks.iter().filter(idle).copied().collect())
}

fn holder(port: u16, inode: u64) -> Holder {
    let owns = |process: &procfs::process::Process| {
        process.fd().is_ok_and(|mut fds| {
            fds.any(|fd| fd.is_ok_and(|fd| matches!(fd.target, FDTarget::Socket(i) if i == inode)))
        })
    };
    let found =
        all_processes().ok().and_then(|mut all| all.find_map(|process| process.ok().filter(owns)));
    let command = found.as_ref().and_then(|p| p.stat().ok()).map(|stat| stat.comm);
    Holder { port, pid: found.map(|p| p.pid), command: command.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_empty() {
        assert!(table::<u8>(Err(ProcError::PermissionDenied(None))).is_err());
        assert!(table::<u8>(Err(ProcError::NotFound(None))).unwrap().is_empty());
    }

    #[test]
    fn a_listener_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let block = PortBlock { base: port, size: 1 };
        let found = holders(block).unwrap();
        assert_eq!(unused(&[block]).unwrap(), []);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pid, i32::try_from(std::process::id()).ok());
        drop(listener);
        assert!(free(PortBlock { base: port, size: 1 }));
        assert_eq!(holders(PortBlock { base: port, size: 1 }).unwrap(), []);
        let listener = std::net::TcpListener::bind(("::1", port)).unwrap();
        assert_eq!(holders(PortBlock { base: port, size: 1 }).unwrap().len(), 1);
        drop(listener);
        let datagrams = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
        let found = holders(PortBlock { base: port, size: 1 }).unwrap();
        assert_eq!(found[0].pid, i32::try_from(std::process::id()).ok());
        drop(datagrams);
    }
}
