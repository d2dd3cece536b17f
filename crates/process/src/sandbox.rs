//! What a launcher takes from an agent before it becomes one: mounts of its own, no capabilities, a
//! list of system calls it may not make, files and ports that are not its business.
//!
//! Each layer stands for itself: what one lets through, a bug in the kernel or in here, the next
//! still holds. The first line is the agent's uid.

use std::{
    collections::BTreeMap,
    fs, io,
    mem::offset_of,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter, sock_filter,
};
use serde::{Deserialize, Serialize};

/// The newest Landlock whose rules are asked for: devices' ioctls (5), signals and abstract
/// sockets (6). <https://docs.kernel.org/userspace-api/landlock.html>
const LANDLOCK: ABI = ABI::V6;
/// Size and number of files of an agent's `/tmp` and `/dev/shm`. They count as its memory.
const SCRATCH: &str = "mode=1777,size=64m,nr_inodes=16384";

/// What an agent may touch beside its HOME.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Confinement {
    /// Directories it may also write to.
    pub writable: Vec<PathBuf>,
    /// Directories it may not read: other agents' HOMEs, the node's keys.
    pub hidden: Vec<PathBuf>,
    /// First and last TCP port it may listen on.
    pub ports: (u16, u16),
}

/// Namespaces and mounts of its own: processes of others, and their `/tmp`, are out of sight.
pub(crate) fn separate() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let proc = inert | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), proc, Some("hidepid=invisible"))?;
    for scratch in ["/tmp", "/dev/shm"] {
        if Path::new(scratch).is_dir() {
            mount(Some("tmpfs"), scratch, Some("tmpfs"), inert, Some(SCRATCH))?;
        }
    }
    Ok(())
}

/// Takes every capability from what this process executes, for good; it has its own until it gives
/// up root.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    use caps::CapSet::{Ambient, Bounding, Inheritable};
    for set in [Ambient, Bounding, Inheritable] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Everything below `/` but the directories of `hidden`: the largest directories that hold none, and
/// files. Whether each is a directory.
fn readable(hidden: &[PathBuf]) -> io::Result<Vec<(PathBuf, bool)>> {
    let (mut open, mut whole) = (vec![PathBuf::from("/")], Vec::new());
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if hidden.contains(&path) {
                continue;
            }
            let holds_hidden = hidden.iter().any(|hidden| hidden.starts_with(&path));
            let is_dir = kind.is_dir() || kind.is_symlink() && path.is_dir();
            if holds_hidden { open.push(path) } else { whole.push((path, is_dir)) }
        }
    }
    Ok(whole)
}

/// Lets this process, and what it becomes, reach `home` and what `confinement` says, and no more.
/// Answers what this kernel lacks for it.
pub(crate) fn confine(home: &Path, confinement: &Confinement) -> io::Result<Option<String>> {
    let read = AccessFs::from_read(LANDLOCK);
    let all = AccessFs::from_all(LANDLOCK);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev | AccessFs::ReadDir;
    let readable = readable(&confinement.hidden)?.into_iter();
    let mut rules: Vec<(PathBuf, bool, BitFlags<AccessFs>)> =
        readable.map(|(path, is_dir)| (path, is_dir, read)).collect();
    let files = read | AccessFs::WriteFile;
    rules.extend([("/dev".into(), true, device), ("/proc".into(), true, files)]);
    let writable = ["/tmp".into(), "/dev/shm".into(), home.to_owned()];
    let writable = writable.into_iter().chain(confinement.writable.clone());
    rules.extend(
        writable.map(|path| (path.is_dir(), path)).map(|(is_dir, path)| (path, is_dir, all)),
    );

    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(|ruleset| ruleset.handle_access(AccessNet::BindTcp))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    let mut ruleset = ruleset;
    for (path, is_dir, access) in rules {
        // What is not there, or not to be seen, needs no rule.
        let Ok(fd) = PathFd::new(&path) else { continue };
        let access = if is_dir { access } else { access & AccessFs::from_file(LANDLOCK) };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access)).map_err(io::Error::other)?;
    }
    let (first, last) = confinement.ports;
    for port in first..=last {
        let rule = NetPort::new(port, AccessNet::BindTcp);
        ruleset = ruleset.add_rule(rule).map_err(io::Error::other)?;
    }
    let status = ruleset.restrict_self().map_err(io::Error::other)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => None,
        RulesetStatus::PartiallyEnforced => Some("Landlock is older than version 6".into()),
        RulesetStatus::NotEnforced => Some("no Landlock".into()),
    })
}

/// System calls no agent needs: they change what all processes share, look into others, or open
/// parts of the kernel that are seldom exercised. Docker's default profile denies the same to
/// processes without capabilities. <https://docs.docker.com/engine/security/seccomp/>
const DENIED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Flags of `clone` that make namespaces.
const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// Socket families that reach into the kernel or out of the machine past its network; and SMC, which
/// becomes TCP where Landlock does not look.
const FAMILIES: &[i32] = &[libc::AF_ALG, libc::AF_VSOCK, AF_SMC];
/// Of linux/socket.h.
const AF_SMC: i32 = 43;
/// What Landlock takes for no TCP, and lets bind any port, that TCP clients reach: multipath TCP, and
/// SMC by another name.
const PROTOCOLS: &[i32] = &[libc::IPPROTO_MPTCP, IPPROTO_SMC];
/// Of linux/in.h.
const IPPROTO_SMC: i32 = 256;

fn when(
    argument: u8,
    operator: SeccompCmpOp,
    value: i32,
) -> Result<SeccompRule, seccompiler::Error> {
    let value = u64::from(value.cast_unsigned());
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// Answers some system calls as ones that do not exist, and leaves all others to what comes after:
/// `clone3`, whose flags lie in memory, where no filter looks (a library told so takes `clone`
/// instead); and those of the x32 convention, which are the others' under numbers of their own.
fn unknown() -> io::Result<[sock_filter; 4]> {
    const X32: u32 = 0x4000_0000;
    let word = |value: u32| u16::try_from(value).map_err(io::Error::other);
    let number = u32::try_from(offset_of!(libc::seccomp_data, nr)).map_err(io::Error::other)?;
    let clone3 = u32::try_from(libc::SYS_clone3).map_err(io::Error::other)?;
    let errno = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    let step = |code, jt, jf, k| Ok::<_, io::Error>(sock_filter { code: word(code)?, jt, jf, k });
    Ok([
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, number)?,
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, X32)?,
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, clone3)?,
        step(libc::BPF_RET | libc::BPF_K, 0, 0, errno)?,
    ])
}

fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let namespaces = NAMESPACES.iter().map(|flag| {
        let bits = SeccompCmpOp::MaskedEq(u64::from(flag.cast_unsigned()));
        when(0, bits, *flag)
    });
    denied.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    let families = FAMILIES.iter().map(|family| when(0, SeccompCmpOp::Eq, *family));
    let protocols = PROTOCOLS.iter().map(|protocol| when(2, SeccompCmpOp::Eq, *protocol));
    denied.insert(libc::SYS_socket, families.chain(protocols).collect::<Result<_, _>>()?);
    let eperm = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(denied, SeccompAction::Allow, eperm, arch)?.try_into()?)
}

/// A program for the kernel that denies the system calls above.
pub(crate) fn denied_calls() -> io::Result<BpfProgram> {
    // One program: the kernel translates what it is given for each agent anew.
    Ok([&unknown()?[..], &filter().map_err(io::Error::other)?].concat())
}

/// Denies system calls to this process and what it becomes.
pub(crate) fn deny_calls(calls: &BpfProgram) -> io::Result<()> {
    apply_filter(calls).map_err(io::Error::other)
}

/// What this kernel lacks to confine agents fully.
pub fn lacking() -> Vec<String> {
    let mut lacking = Vec::new();
    let required = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::BindTcp))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create);
    if required.is_err() {
        lacking.push("no Landlock, or one older than version 6 (Linux 6.12)".into());
    }
    if !Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        lacking.push("no seccomp filters".into());
    }
    lacking
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_not_below_what_is_readable() {
        let hidden = [PathBuf::from("/usr/lib"), PathBuf::from("/etc")];
        let open = readable(&hidden).unwrap();
        assert!(open.contains(&(PathBuf::from("/usr/bin"), true)));
        for (path, _) in &open {
            assert!(hidden.iter().all(|hidden| !hidden.starts_with(path)), "{}", path.display());
        }
    }

    #[test]
    fn the_filter_compiles_here() {
        assert!(denied_calls().is_ok());
    }
}
