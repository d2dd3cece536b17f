//! Beside other supervisors of processes: supervisord, PM2, s6 and runit, each with the same
//! children: a shell that notes its start in a file of its own and becomes `sleep`. Ours gives each
//! a user, mounts and more of its own; s6 and runit are measured with children that do most of
//! that for themselves, too.
//!
//! `SUPERVISORD`, `PM2` and `NODE` name those programs; s6 and runit are the distribution's.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use cluster_tests::{Cluster, until};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::json;

use crate::median;

/// How long starting all children may take, in seconds.
const STARTING: u64 = 900;
/// Children run this long before one is killed: each supervisor takes them for healthy then.
const HEALTHY: Duration = Duration::from_secs(40);
/// Children killed, one after the other.
const KILLS: u32 = 20;
/// How long a start may take, in seconds.
const RESTART: u64 = 30;
/// Pause between looks at one child's file.
const LOOK: Duration = Duration::from_micros(200);
/// What is left so long after the supervisor was killed is an orphan: ours may be away for a lease.
const AFTER: Duration = Duration::from_secs(15);

/// What child `number` sleeps for, by which it is found.
fn seconds(number: u32) -> String {
    (700_000_000 + number).to_string()
}

fn script(marks: &Path, number: u32) -> String {
    format!("echo >> {}/{number}; exec sleep {}", marks.display(), seconds(number))
}

/// As [`script`], for a child that has its own user, mounts, host name and no capabilities: all that
/// is to be had from util-linux of what ours gives. No control group, Landlock, or system calls denied.
fn confined(marks: &Path, number: u32) -> String {
    let uid = 700_000_000 + number;
    format!(
        "exec unshare --mount --uts --ipc sh -c 'mount -t proc -o hidepid=invisible proc /proc; \
         mount -t tmpfs tmpfs /dev/shm; exec setpriv --reuid {uid} --regid {uid} --clear-groups \
         --no-new-privs --bounding-set=-all --inh-caps=-all sh -c \"{}\"'",
        script(marks, number)
    )
}

/// The processes there are: pid, name, arguments.
fn processes() -> Vec<(u32, String, String)> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, name.trim().to_owned(), arguments))
    })
    .collect()
}

/// The children that run, by number.
fn children() -> BTreeMap<u32, u32> {
    let number = |arguments: &str| {
        let seconds = arguments.strip_prefix("sleep\0")?.trim_end_matches('\0');
        seconds.parse::<u32>().ok()?.checked_sub(700_000_000)
    };
    processes()
        .into_iter()
        .filter_map(|(pid, _, arguments)| Some((number(&arguments)?, pid)))
        .collect()
}

fn kill(pid: u32) -> Result<()> {
    Ok(signal::kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?)
}

/// Kibibytes of memory that count as these processes', as `/proc/PID/smaps_rollup` has it under
/// `name`.
fn memory_kib(pids: &[u32], name: &str) -> f64 {
    let of = |pid: &u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()
    };
    pids.iter().filter_map(of).sum()
}

/// The children's marks, in memory: a disk that is busy with what was there before is nobody's fault.
struct Marks(PathBuf);

impl Marks {
    fn made(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        let options = Some("mode=0777");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), options)?;
        Ok(Self(path))
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// A supervisor: what its processes are called, the first of them the one to kill.
struct Kind {
    name: &'static str,
    processes: &'static [&'static str],
}

impl Kind {
    fn own(&self, process: usize) -> Vec<u32> {
        let wanted = &self.processes[process..];
        let own = processes().into_iter();
        own.filter(|(_, name, _)| wanted.iter().any(|wanted| name.starts_with(wanted)))
            .map(|(pid, _, _)| pid)
            .collect()
    }

    /// Measures it, its children configured and not running; `start` starts it.
    fn measure(&self, count: u32, marks: &Path, start: impl FnOnce() -> Result<()>) -> Result<()> {
        let began = Instant::now();
        start()?;
        until(STARTING, "every child", || {
            (fs::read_dir(marks).ok()?.count() >= count as usize).then_some(())
        });
        let started = began.elapsed().as_secs_f64();
        sleep(HEALTHY);
        let own = self.own(0);
        let [each, kept] =
            ["Pss:", "Pss_Anon:"].map(|name| memory_kib(&own, name) / f64::from(count));
        let mut took = Vec::new();
        for number in (0..count).step_by((count / KILLS).max(1) as usize) {
            let pid = *children().get(&number).context("a child is gone")?;
            let mark = marks.join(number.to_string());
            let before = fs::metadata(&mark)?.len();
            let killed = Instant::now();
            kill(pid)?;
            let end = killed + Duration::from_secs(RESTART);
            while fs::metadata(&mark)?.len() == before && Instant::now() < end {
                sleep(LOOK);
            }
            took.push(killed.elapsed().as_secs_f64() * 1_000.0);
        }
        let first = Self { processes: &self.processes[..1], ..*self };
        first.own(0).into_iter().try_for_each(kill)?;
        sleep(AFTER);
        let left = children();
        let name = self.name;
        println!(
            "| {name} | {started:.2} | {:.1} | {each:.0} | {kept:.1} | {} |",
            median(took),
            left.len()
        );
        self.own(0).into_iter().try_for_each(kill)?;
        children().into_values().try_for_each(kill)
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// What a child executes.
type Script = fn(&Path, u32) -> String;

/// A folder with a `run` script for each child, as s6 and runit have it, and one for the children's
/// marks.
fn services(dir: &Path, script: Script, count: u32) -> Result<(Marks, PathBuf)> {
    let (marks, scan) = (Marks::made(dir.join("marks"))?, dir.join("scan"));
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    for number in 0..count {
        let service = scan.join(number.to_string());
        fs::create_dir_all(&service)?;
        let run = service.join("run");
        fs::write(&run, format!("#!/bin/sh\n{}\n", script(&marks.0, number)))?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
    }
    Ok((marks, scan))
}

fn ours(binary: &Path, count: u32) -> Result<()> {
    cluster_tests::use_binary(binary);
    let mut cluster = Cluster::formed(1, "default");
    cluster.ok(&["fleet", "create", "f"]);
    let marks = cluster.shared();
    for number in 0..count {
        let name = format!("f/a{number}");
        let create = ["agent", "create", &name, "--runtime", "exec", "--ports", "1", "--no-wait"];
        cluster.ok(&[&create[..], &["--", "/bin/sh", "-c", &script(&marks, number)]].concat());
    }
    until(STARTING, "every child", || (children().len() >= count as usize).then_some(()));
    cluster.power_off(1);
    let marks = Marks::made(marks)?;
    let processes = &["fleet-cluster", "fleet-guard", "fleet-init", "fleet-launch"];
    let kind = Kind { name: "fleet-cluster", processes };
    kind.measure(count, &marks.0, || {
        cluster.start(1);
        Ok(())
    })
}

fn supervisord(count: u32) -> Result<()> {
    let (dir, program) = (tempfile::tempdir()?, env::var("SUPERVISORD").context("SUPERVISORD")?);
    let (marks, config) = (Marks::made(dir.path().join("marks"))?, dir.path().join("config"));
    let child =
        format!("echo >> {}/%(process_num)d; exec sleep 70%(process_num)07d", marks.0.display());
    let text = format!(
        "[supervisord]\nnodaemon=true\nminfds=20000\nlogfile=/dev/null\nlogfile_maxbytes=0\n\
         pidfile={0}/pid\n[program:p]\ncommand=/bin/sh -c \"{child}\"\n\
         process_name=%(process_num)d\nnumprocs={count}\nautorestart=true\n\
         stdout_logfile={0}/%(process_num)d.log\nredirect_stderr=true\n",
        dir.path().display()
    );
    fs::write(&config, text)?;
    let kind = Kind { name: "supervisord", processes: &["supervisord"] };
    kind.measure(count, &marks.0, || {
        spawn(Command::new(program).arg("-c").arg(&config).env("TMPDIR", dir.path()))?;
        Ok(())
    })
}

fn pm2(count: u32) -> Result<()> {
    let (dir, program) = (tempfile::tempdir()?, env::var("PM2").context("PM2")?);
    let (marks, config) = (Marks::made(dir.path().join("marks"))?, dir.path().join("apps.json"));
    let app = |number| {
        json!({
            "name": format!("p{number}"), "script": "/bin/sh", "interpreter": "none",
            "args": ["-c", script(&marks.0, number)],
        })
    };
    let apps: Vec<_> = (0..count).map(app).collect();
    fs::write(&config, json!({ "apps": apps }).to_string())?;
    symlink(env::var("NODE").context("NODE")?, dir.path().join("node"))?;
    let path = format!("{}:{}", dir.path().display(), env::var("PATH")?);
    let kind = Kind { name: "PM2", processes: &["PM2"] };
    kind.measure(count, &marks.0, || {
        let mut start = Command::new(program);
        start.arg("start").arg(&config).env("PM2_HOME", dir.path().join("home")).env("PATH", path);
        spawn(&mut start)?;
        Ok(())
    })
}

fn s6(name: &'static str, script: Script, count: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (marks, scan) = services(dir.path(), script, count)?;
    let kind = Kind { name, processes: &["s6-svscan", "s6-supervise"] };
    let most = (count + 10).to_string();
    kind.measure(count, &marks.0, || {
        spawn(Command::new("s6-svscan").args(["-c", &most]).arg(&scan))?;
        Ok(())
    })
}

fn runit(name: &'static str, script: Script, count: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (marks, scan) = services(dir.path(), script, count)?;
    let kind = Kind { name, processes: &["runsvdir", "runsv"] };
    kind.measure(count, &marks.0, || {
        spawn(Command::new("runsvdir").arg(&scan))?;
        Ok(())
    })
}

pub(crate) fn run(binary: &Path, count: u32) -> Result<()> {
    println!("\n{count} children: `sleep`, configured before; {KILLS} of them killed\n");
    println!(
        "| supervisor | all started s | killed to started again p50 ms | own KiB a child \
         | without programs | left {} s after it was killed |",
        AFTER.as_secs()
    );
    println!("|---|---|---|---|---|---|");
    ours(binary, count)?;
    s6("s6", script, count)?;
    s6("s6, confined", confined, count)?;
    runit("runit", script, count)?;
    runit("runit, confined", confined, count)?;
    supervisord(count)?;
    pm2(count)
}
