//! Real binaries, several nodes in network and mount namespaces, real faults.
//!
//! Every [`Cluster`] has a bridge and hosts of its own, so tests may run side by side. Dropping it
//! kills everything in its namespaces and removes them.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test harness may")]

pub mod cable;
mod keeper;
pub mod oracle;

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

pub use keeper::{Keeper, cgroup_root};
use serde_json::Value;
use tempfile::TempDir;

static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn sh(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {:?}", said(&output));
}

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Tests another binary than the one beside the test's own.
pub fn use_binary(path: &Path) {
    // The first choice stands.
    let _ = BINARY.set(path.to_owned());
}

/// The binary under test: beside the test's own, unless [`use_binary`] said otherwise.
pub fn binary() -> PathBuf {
    if let Some(path) = BINARY.get() {
        return path.clone();
    }
    let own = std::env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join("fleet-cluster");
    assert!(path.exists(), "{} is missing: cargo build -p fleet-cluster", path.display());
    path
}

/// Waits until `look` answers something; fails with `what` after `seconds`.
pub fn until<T>(seconds: u64, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not happen within {seconds} s");
        // Foreign processes announce nothing; this is the pace of looking at them.
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A host: its namespaces, its folders, its guard and its daemon.
pub struct Host {
    /// 1 for the first.
    pub number: u32,
    netns: String,
    dir: PathBuf,
    daemon: Option<Child>,
    /// That of strict agents is first.
    guards: Vec<Keeper>,
}

/// Several hosts on one bridge.
pub struct Cluster {
    /// By position; number 1 is first.
    pub hosts: Vec<Host>,
    prefix: String,
    dir: TempDir,
    /// The mistake planted in every process of it.
    mutant: Option<&'static str>,
    /// What its cables do; nothing, when they are the kernel's.
    cables: Option<cable::Quality>,
}

impl Cluster {
    /// Hosts without daemons.
    pub fn hosts(count: u32) -> Self {
        Self::wired(count, None)
    }

    /// Hosts without daemons, on cables of a quality.
    pub fn wired(count: u32, cables: Option<cable::Quality>) -> Self {
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("ft{}x{number}", std::process::id());
        // Not in /tmp, of which agents have their own.
        let dir = tempfile::Builder::new().prefix("fleet-test").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let switch = format!("{prefix}s");
        sh(&format!(
            "ip netns add {switch} && ip -n {switch} link set lo up && \
             ip -n {switch} link add br0 type bridge && ip -n {switch} link set br0 up && \
             ip -n {switch} addr add 10.87.0.254/24 dev br0"
        ));
        let mut cluster = Self { hosts: Vec::new(), prefix, dir, mutant: None, cables };
        for number in 1..=count {
            cluster.add_host(number);
        }
        cluster
    }

    /// Plants a mistake by its name, see `fleet_mutants`. Before anything starts.
    pub fn plant(mut self, mutant: Option<&'static str>) -> Self {
        self.mutant = mutant;
        self
    }

    /// A formed cluster of `count` nodes, all active.
    pub fn formed(count: u32, profile: &str) -> Self {
        Self::hosts(count).form(count, profile)
    }

    /// Makes a cluster of hosts that were not started yet.
    pub fn form(mut self, count: u32, profile: &str) -> Self {
        let cluster = &mut self;
        let init = cluster.init(profile);
        assert_eq!(init.code, 0, "{init:?}");
        cluster.start(1);
        cluster.wait_active(1);
        for number in 2..=count {
            let token = cluster.token(&[]);
            let join = cluster.join(number, &token);
            assert_eq!(join.code, 0, "{join:?}");
            cluster.start(number);
        }
        cluster.wait_active(count);
        self
    }

    /// Makes the cluster on the first host, without starting it.
    pub fn init(&self, profile: &str) -> Said {
        let context = self.context();
        let context = context.to_str().unwrap();
        self.on(
            1,
            &[
                "--context",
                context,
                "init",
                "--advertise",
                "10.87.0.1",
                "--name",
                "n1",
                "--profile",
                profile,
                "--no-start",
            ],
            "",
        )
    }

    fn add_host(&mut self, number: u32) {
        let (netns, switch) = (format!("{}n{number}", self.prefix), format!("{}s", self.prefix));
        sh(&format!("ip netns add {netns} && ip -n {netns} link set lo up"));
        let port = format!("p{number}");
        match self.cables {
            Some(quality) => cable::lay([(&netns, "eth0"), (&switch, &port)], quality),
            None => sh(&format!(
                "ip -n {switch} link add {port} type veth peer name eth0 netns {netns}"
            )),
        }
        sh(&format!(
            "ip -n {switch} link set {port} master br0 up && \
             ip -n {netns} addr add 10.87.0.{number}/24 dev eth0 && \
             ip -n {netns} link set eth0 up"
        ));
        let dir = self.dir.path().join(format!("h{number}"));
        for folder in ["data", "fleets", "etc"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        self.hosts.push(Host { number, netns, dir, daemon: None, guards: Vec::new() });
        self.configure(number, "");
    }

    /// Adds hosts up to `count`.
    pub fn add_hosts(&mut self, count: u32) {
        let present = u32::try_from(self.hosts.len()).unwrap();
        for number in present + 1..=count {
            self.add_host(number);
        }
    }

    fn host(&mut self, number: u32) -> &mut Host {
        &mut self.hosts[number as usize - 1]
    }

    /// A folder of a host: data, fleets or etc.
    pub fn folder(&self, number: u32, name: &str) -> PathBuf {
        self.hosts[number as usize - 1].dir.join(name)
    }

    /// A folder every host and agent can write to.
    pub fn shared(&self) -> PathBuf {
        let path = self.dir.path().join("shared");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        path
    }

    /// Adds to a host's configuration.
    pub fn configure(&self, number: u32, toml: &str) {
        let (cgroup, guards) = (self.cgroup(number), self.guard_dir(number));
        let shared = self.shared();
        let text = format!(
            "cgroup = {cgroup:?}\nguard_dir = {guards:?}\nwritable_paths = [{shared:?}]\n{toml}"
        );
        fs::write(self.folder(number, "etc").join("config.toml"), text).unwrap();
    }

    fn cgroup(&self, number: u32) -> String {
        format!("fleet-tests/{}n{number}", self.prefix)
    }

    /// When the lease of a host's strict agents ends, in milliseconds of `CLOCK_BOOTTIME`.
    pub fn lease_deadline(&self, number: u32) -> Option<u64> {
        let status = self.guard_dir(number).join("strict/status");
        let status = fs::read_to_string(status).unwrap();
        status.strip_prefix("held ")?.split_whitespace().nth(1)?.parse().ok()
    }

    /// The control group of a strict agent, `FLEET.AGENT`.
    pub fn agent_group(&self, number: u32, agent: &str) -> PathBuf {
        cgroup_root().join(self.cgroup(number)).join("strict").join(agent)
    }

    /// Whether any process of an agent runs on a host.
    pub fn populated(&self, number: u32) -> bool {
        let events = cgroup_root().join(self.cgroup(number)).join("cgroup.events");
        fs::read_to_string(events).unwrap().contains("populated 1")
    }

    /// Where a host's guards listen.
    pub fn guard_dir(&self, number: u32) -> PathBuf {
        self.dir.path().join(format!("h{number}/guard"))
    }

    /// Starts a host's guards, if it has none.
    fn start_guards(&mut self, number: u32) {
        if !self.host(number).guards.is_empty() {
            return;
        }
        let (directory, group) = (self.guard_dir(number), cgroup_root().join(self.cgroup(number)));
        let within = || self.within(number);
        self.host(number).guards = Keeper::start_all(within, &binary(), &directory, &group);
    }

    /// Replaces a host's guards, if it has any, by others that get no real-time priority.
    pub fn guards_without_priority(&mut self, number: u32) {
        self.host(number).guards.clear();
        let (directory, group) = (self.guard_dir(number), cgroup_root().join(self.cgroup(number)));
        let within = || {
            let mut within = self.within(number);
            within.args(["setpriv", "--bounding-set", "-sys_nice"]);
            within
        };
        self.host(number).guards = Keeper::start_all(within, &binary(), &directory, &group);
    }

    /// Sends a host's daemon a signal that does not end it.
    pub fn signal(&mut self, number: u32, signal: &str) {
        let pid = self.host(number).daemon.as_ref().unwrap().id();
        sh(&format!("kill -{signal} {pid}"));
    }

    /// Sends a host's guards a signal. One that ends them has them started again.
    pub fn signal_guards(&mut self, number: u32, signal: &str) {
        self.host(number).guards.iter().for_each(|guard| guard.signal(signal));
    }

    /// The processes of a host's guards, that of strict agents first.
    pub fn guard_pids(&mut self, number: u32) -> Vec<u32> {
        self.host(number).guards.iter().map(Keeper::pid).collect()
    }

    /// Sends what keeps a host's guards a signal.
    pub fn signal_keepers(&mut self, number: u32, signal: &str) {
        self.host(number).guards.iter().for_each(|guard| guard.signal_keeper(signal));
    }

    fn context(&self) -> PathBuf {
        self.dir.path().join("context.json")
    }

    /// Points the operator at these hosts.
    pub fn point_at(&self, numbers: &[u32]) {
        let mut context: Value =
            serde_json::from_slice(&fs::read(self.context()).unwrap()).unwrap();
        context["endpoints"] =
            numbers.iter().map(|n| Value::from(format!("10.87.0.{n}:7400"))).collect();
        context["members"] = Value::Array(Vec::new());
        fs::write(self.context(), context.to_string()).unwrap();
    }

    /// A command that runs another as on a host.
    fn within(&self, number: u32) -> Command {
        let host = &self.hosts[number as usize - 1];
        let script = "own=$1; shift
            mkdir -p /var/lib/fleet-cluster /var/lib/fleets /etc/fleet-cluster
            mount --bind $own/data /var/lib/fleet-cluster
            mount --bind $own/fleets /var/lib/fleets
            mount --bind $own/etc /etc/fleet-cluster
            exec \"$@\"";
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", host.netns))
            .args(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "-"])
            .arg(&host.dir)
            .envs(self.mutant.map(|mutant| ("FLEET_MUTANT", mutant)));
        command
    }

    /// `fleet-cluster ARGS` as on a host.
    fn command(&self, number: u32, args: &[&str]) -> Command {
        let mut command = self.within(number);
        command.arg(binary()).args(args);
        command
    }

    /// Runs `fleet-cluster ARGS` on a host, with `input` on its standard input.
    pub fn on(&self, number: u32, args: &[&str], input: &str) -> Said {
        run(self.command(number, args), input)
    }

    /// Runs `fleet-cluster ARGS` as the operator.
    pub fn cli(&self, args: &[&str]) -> Said {
        self.cli_with(args, "")
    }

    /// Runs `fleet-cluster ARGS` as the operator, with `input` on its standard input.
    pub fn cli_with(&self, args: &[&str], input: &str) -> Said {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}s", self.prefix))
            .arg(binary())
            .args(args)
            .env("FLEET_CLUSTER_CONTEXT", self.context());
        run(command, input)
    }

    /// As [`Cluster::cli`], which must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.cli(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.out
    }

    /// The JSON a command prints.
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.ok(&args)).unwrap()
    }

    /// A join token.
    pub fn token(&self, args: &[&str]) -> String {
        let args: Vec<&str> = ["token", "create", "-q"].iter().chain(args).copied().collect();
        self.ok(&args).trim().to_owned()
    }

    /// Joins a host to the node on the first.
    pub fn join(&self, number: u32, token: &str) -> Said {
        self.join_at(number, token, "10.87.0.1:7400")
    }

    /// Joins a host to whatever is at an address.
    pub fn join_at(&self, number: u32, token: &str, address: &str) -> Said {
        let (advertise, name) = (format!("10.87.0.{number}"), format!("n{number}"));
        let args = [
            "join",
            address,
            "--advertise",
            &advertise,
            "--name",
            &name,
            "--token-file",
            "-",
            "--no-start",
        ];
        self.on(number, &args, token)
    }

    /// Starts a host's daemon, and its guards if none run.
    pub fn start(&mut self, number: u32) {
        self.start_guards(number);
        let log = self.log_path(number);
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.command(number, &["run"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.host(number).daemon = Some(command.spawn().unwrap());
    }

    /// The process of a host's daemon.
    pub fn daemon_pid(&mut self, number: u32) -> u32 {
        self.host(number).daemon.as_ref().unwrap().id()
    }

    fn log_path(&self, number: u32) -> PathBuf {
        self.dir.path().join(format!("h{number}.log"))
    }

    /// What a host's daemon logged.
    pub fn log(&self, number: u32) -> String {
        fs::read_to_string(self.log_path(number)).unwrap_or_default()
    }

    /// Ends a host's daemon with a signal and waits for it; its exit code.
    pub fn end(&mut self, number: u32, signal: &str) -> Option<i32> {
        let mut daemon = self.host(number).daemon.take().unwrap();
        sh(&format!("kill -{signal} {}", daemon.id()));
        daemon.wait().unwrap().code()
    }

    /// The exit code of a host's daemon if it has ended by itself; -1 for a signal.
    pub fn daemon_ended(&mut self, number: u32) -> Option<i32> {
        let ended = self.host(number).daemon.as_mut().unwrap().try_wait().unwrap()?;
        self.host(number).daemon = None;
        Some(ended.code().unwrap_or(-1))
    }

    /// Ends everything on a host at once and cuts its cable, as a power cut would.
    pub fn power_off(&mut self, number: u32) {
        self.cut(number);
        let netns = self.host(number).netns.clone();
        // Of init and its agents, killing one ends the others before their turn comes.
        sh(&format!("kill -9 $(ip netns pids {netns}) 2>/dev/null || true"));
        let host = self.host(number);
        host.guards.clear();
        if let Some(mut daemon) = host.daemon.take() {
            daemon.wait().unwrap();
        }
    }

    /// Cuts a host's cable. Nobody is told.
    pub fn cut(&self, number: u32) {
        sh(&format!("ip -n {}s link set p{number} down", self.prefix));
    }

    /// Mends a host's cable.
    pub fn mend(&self, number: u32) {
        sh(&format!("ip -n {}s link set p{number} up", self.prefix));
    }

    /// Lets nothing pass between two hosts, though both reach the others.
    pub fn part(&self, one: u32, other: u32) {
        for (from, to) in [(one, other), (other, one)] {
            let netns = &self.hosts[from as usize - 1].netns;
            sh(&format!("ip -n {netns} route add blackhole 10.87.0.{to}/32"));
        }
    }

    /// Ends what [`Cluster::part`] did.
    pub fn unpart(&self, one: u32, other: u32) {
        for (from, to) in [(one, other), (other, one)] {
            let netns = &self.hosts[from as usize - 1].netns;
            sh(&format!("ip -n {netns} route del blackhole 10.87.0.{to}/32"));
        }
    }

    /// Loses what one host sends to another; nobody is told.
    pub fn silence(&self, from: u32, to: u32) {
        let netns = &self.hosts[from as usize - 1].netns;
        let nowhere = "lladdr 02:00:00:00:00:99 dev eth0 nud permanent";
        sh(&format!("ip -n {netns} neigh replace 10.87.0.{to} {nowhere}"));
    }

    /// Ends what [`Cluster::silence`] did.
    pub fn unsilence(&self, from: u32, to: u32) {
        let netns = &self.hosts[from as usize - 1].netns;
        sh(&format!("ip -n {netns} neigh del 10.87.0.{to} dev eth0"));
    }

    /// Where agents that run [`Cluster::stamping`] write, for [`oracle::runs`].
    pub fn stamps(&self) -> PathBuf {
        self.shared().join("stamps")
    }

    /// The command of an agent that stamps.
    pub fn stamping(&self) -> [String; 2] {
        let (program, stamps) = (self.shared().join("fleet-stamp"), self.stamps());
        if !stamps.exists() {
            fs::create_dir(&stamps).unwrap();
            fs::set_permissions(&stamps, fs::Permissions::from_mode(0o777)).unwrap();
            fs::copy(binary().with_file_name("fleet-stamp"), &program).unwrap();
        }
        [program, stamps].map(|path| path.to_string_lossy().into_owned())
    }

    /// What is left of a host's TCP connections to an address, but for the memory of closed ones.
    pub fn connections(&self, number: u32, to: &str) -> String {
        let netns = &self.hosts[number as usize - 1].netns;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns, "ss", "-Htan", "exclude", "time-wait", "dst", to]);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    /// Puts a host's data on a disk of its own, which [`Cluster::freeze_disk`] can hang. Before its
    /// first start.
    pub fn own_disk(&self, number: u32) {
        let (data, image) = (self.folder(number, "data"), self.dir.path().join("disk"));
        let (data, image) = (data.display(), image.display());
        sh(&format!(
            "truncate -s 512M {image} && mkfs.ext4 -q {image} && mount -o loop {image} {data}"
        ));
    }

    /// Lets nothing more reach a host's own disk: whoever writes waits.
    pub fn freeze_disk(&self, number: u32) {
        sh(&format!("fsfreeze --freeze {}", self.folder(number, "data").display()));
    }

    /// Lets a host's own disk go on.
    pub fn thaw_disk(&self, number: u32) {
        sh(&format!("fsfreeze --unfreeze {}", self.folder(number, "data").display()));
    }

    /// Takes a host's own disk away, once nobody uses it.
    pub fn remove_disk(&self, number: u32) {
        sh(&format!("umount --lazy {}", self.folder(number, "data").display()));
    }

    /// Starts a program on a host.
    pub fn spawn_on(&self, number: u32, program: &str, args: &[&str]) -> Child {
        Self::spawn_in(&self.hosts[number as usize - 1].netns, program, args)
    }

    /// Starts a program beside the hosts, at 10.87.0.254, where no fault reaches it.
    pub fn spawn_at_switch(&self, program: &str, args: &[&str]) -> Child {
        Self::spawn_in(&format!("{}s", self.prefix), program, args)
    }

    fn spawn_in(netns: &str, program: &str, args: &[&str]) -> Child {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{netns}")).arg(program).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    }

    /// Waits until `count` nodes are active, and vote if there are up to three.
    pub fn wait_active(&self, count: u32) {
        until(60, &format!("{count} active nodes"), || {
            let said = self.cli(&["node", "list", "-o", "json", "--patience", "1"]);
            let active = said.out.matches("STATE_ACTIVE").count();
            let votes = said.out.matches("\"votes\": true").count();
            (active >= count as usize && votes >= count.min(3) as usize).then_some(())
        });
    }

    /// An agent as JSON.
    pub fn agent(&self, name: &str) -> Value {
        self.json(&["agent", "get", name])["agent"].clone()
    }

    /// Waits until an agent is ready at a generation; the host it is on.
    pub fn wait_ready(&self, name: &str, generation: u64, seconds: u64) -> u32 {
        until(seconds, &format!("{name} ready at generation {generation}"), || {
            let said = self.cli(&["agent", "get", name, "-o", "json", "--patience", "2"]);
            let agent: Value = serde_json::from_str(&said.out).ok()?;
            let agent = &agent["agent"];
            let ready = agent["state"] == "STATE_READY";
            (ready && agent["generation"].as_str() == Some(&generation.to_string()))
                .then(|| host_of(agent))
        })
    }

    /// The host that leads.
    pub fn leader(&self) -> u32 {
        let status = self.cli(&["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&status.out).unwrap();
        let leader = &status["status"]["leader"];
        let nodes = status["status"]["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["name"] == *leader).unwrap();
        number_of(node["displayName"].as_str().unwrap())
    }
}

fn run(mut command: Command, input: &str) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that reads nothing may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    said(&child.wait_with_output().unwrap())
}

fn number_of(name: &str) -> u32 {
    name.trim_start_matches('n').parse().unwrap()
}

/// The host an agent is placed on.
pub fn host_of(agent: &Value) -> u32 {
    number_of(agent["placement"]["nodeDisplayName"].as_str().unwrap())
}

/// A shell command that runs for ever, and writes to `overlap` in `shared` if another copy of it
/// runs anywhere: it holds a lock that all hosts see.
pub fn exclusive(shared: &Path, name: &str) -> String {
    let shared = shared.display();
    format!(
        "flock --nonblock {shared}/{name}.lock sleep infinity || echo {name} >> {shared}/overlap"
    )
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in &self.hosts {
                println!("--- log of host {}", host.number);
                let log = self.log(host.number);
                let lines: Vec<&str> = log.lines().collect();
                for line in lines.iter().rev().take(40).rev() {
                    println!("{line}");
                }
            }
        }
        let names: Vec<String> = self
            .hosts
            .iter()
            .map(|h| h.netns.clone())
            .chain([format!("{}s", self.prefix)])
            .collect();
        for name in &names {
            let _ = Command::new("sh")
                .args(["-c", &format!("kill -9 $(ip netns pids {name}) 2>/dev/null")])
                .status();
        }
        for host in &mut self.hosts {
            if let Some(mut daemon) = host.daemon.take() {
                let _ = daemon.wait();
            }
            host.guards.clear();
        }
        for name in &names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        keeper::remove_groups(&format!("fleet-tests/{}n*", self.prefix));
    }
}
