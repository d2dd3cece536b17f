//! A guard by itself, asked at its socket: how it counts, each test again with a mistake planted,
//! and how its program is replaced.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use cluster_tests::{Keeper, binary, cgroup_root, until};
use fleet_guard::Status;
use nix::{
    sys::signal::{Signal, kill},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use tempfile::TempDir;

/// The guards of a host that has no daemon.
struct Guards {
    keepers: Vec<Keeper>,
    directory: TempDir,
    group: PathBuf,
}

impl Guards {
    fn start(mutant: Option<&'static str>) -> Self {
        Self::beside(&binary(), mutant)
    }

    /// Of the programs that lie beside another.
    fn beside(binary: &Path, mutant: Option<&'static str>) -> Self {
        Self::within(binary, || {
            let mut command = Command::new("env");
            command.args(mutant.map(|mutant| format!("FLEET_MUTANT={mutant}")));
            command
        })
    }

    /// Of the programs that lie beside another, started by what `within` makes.
    fn within(binary: &Path, within: impl Fn() -> Command) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let name = directory.path().file_name().expect("a name");
        let group = cgroup_root().join("fleet-guard-test").join(name);
        let keepers = Keeper::start_all(within, binary, directory.path(), &group);
        Self { keepers, directory, group }
    }

    fn try_connect(&self) -> Option<Asking> {
        let socket = UnixStream::connect(self.directory.path().join("strict/socket"));
        Some(Asking(BufReader::new(socket.ok()?)))
    }

    /// A connection to the guard of strict agents.
    fn connect(&self) -> Asking {
        self.try_connect().expect("a guard")
    }
}

impl Drop for Guards {
    fn drop(&mut self) {
        self.keepers.clear();
        for class in ["strict", "sticky", "pinned", ""] {
            // What is not empty yet is the next run's.
            let _ = fs::remove_dir(self.group.join(class));
        }
    }
}

struct Asking(BufReader<UnixStream>);

impl Asking {
    fn ask(&mut self, request: &str) -> String {
        writeln!(self.0.get_mut(), "{request}").expect("a guard that listens");
        let mut answer = String::new();
        self.0.read_line(&mut answer).expect("an answer");
        answer.trim().to_owned()
    }

    /// Takes a lease whose grant takes `delay`.
    fn take_lease(&mut self, lease_ms: u64, delay: Duration) -> Status {
        let begun = self.ask("begin");
        sleep(delay);
        let nonce = begun.strip_prefix("nonce ").expect("a nonce");
        self.ask(&format!("grant {nonce} 1 {lease_ms}")).parse().expect("a status")
    }
}

fn boot_ms() -> u64 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a clock"));
    u64::try_from(now.as_millis()).expect("not that long")
}

#[test]
fn a_renewal_that_is_forged_old_or_replayed_is_refused() {
    let guards = Guards::start(None);
    let mut asking = guards.connect();
    let held = asking.take_lease(3_000, Duration::ZERO).held.expect("a lease");
    let begin = |asking: &mut Asking| asking.ask("begin").replace("nonce ", "");
    let (used, other) = (begin(&mut asking), begin(&mut asking));
    let forged = used.parse::<u64>().expect("a number") ^ 1;
    let granted = asking.ask(&format!("grant {used} 1 3000"));
    let now = granted.parse::<Status>().expect("a status").held.expect("a lease");
    assert!(now.deadline_ms >= held.deadline_ms);
    for (why, request) in [
        ("forged", format!("grant {forged} 1 9000")),
        ("replayed", format!("grant {used} 1 9000")),
        ("of another epoch", format!("grant {other} 2 9000")),
        ("of a nonce spent on a refusal", format!("grant {other} 1 9000")),
        ("too long", format!("grant {} 1 60000", begin(&mut asking))),
        ("shortening", format!("grant {} 1 1000", begin(&mut asking))),
        ("no number", "grant x 1 9000".into()),
        ("no request", "give me all".into()),
    ] {
        let answer = asking.ask(&request);
        assert!(answer.starts_with("refused "), "{why}: {answer}");
    }
    let status: Status = asking.ask("status").parse().expect("a status");
    assert_eq!(status.held, Some(now));
}

#[test]
fn a_guard_that_can_have_no_namespace_says_so() {
    let guards = Guards::within(&binary(), || {
        let mut command = Command::new("setpriv");
        command.arg("--bounding-set=-sys_admin");
        command
    });
    let mut asking = guards.connect();
    let status: Status = asking.ask("status").parse().expect("a status");
    assert!(status.unfit.is_some_and(|why| why.contains("namespace")), "it says nothing of it");
    assert!(asking.take_lease(3_000, Duration::ZERO).held.is_some(), "pinned ones may run there");
    let sticky = UnixStream::connect(guards.directory.path().join("sticky/socket"));
    let mut sticky = Asking(BufReader::new(sticky.expect("a guard")));
    let nonce = sticky.ask("begin").replace("nonce ", "");
    let answer = sticky.ask(&format!("grant {nonce} 1 3000"));
    assert!(answer.starts_with("refused"), "they would outlive their lease: {answer}");
    let whole = Guards::start(None);
    let status: Status = whole.connect().ask("status").parse().expect("a status");
    assert!(!status.unfit.is_some_and(|why| why.contains("namespace")));
}

/// Whether a lease whose grant was long under way ends when it should by its request.
fn counts_from_the_request(mutant: Option<&'static str>) -> bool {
    let guards = Guards::start(mutant);
    let mut asking = guards.connect();
    let (before, delay) = (boot_ms(), Duration::from_secs(1));
    let held = asking.take_lease(3_000, delay).held.expect("a lease");
    // A tenth is the holder's margin.
    held.deadline_ms < before + 2_700 + 500
}

#[test]
fn a_lease_counts_from_its_request() {
    assert!(counts_from_the_request(None));
}

#[test]
fn mutant_deadline_from_grant_is_noticed() {
    assert!(!counts_from_the_request(Some("deadline-from-grant")), "not noticed, or never planted");
}

/// The clock of the timer that kills a guard, as `/proc/PID/timers` has it: 7 is `CLOCK_BOOTTIME`, 0
/// the one that people set.
fn clock(mutant: Option<&'static str>) -> u32 {
    let guards = Guards::start(mutant);
    guards.connect().take_lease(3_000, Duration::ZERO);
    let path = format!("/proc/{}/timers", guards.keepers[0].pid());
    let timers = fs::read_to_string(path).expect("timers");
    let clock = timers.lines().find_map(|line| line.strip_prefix("ClockID: "));
    clock.expect("a timer").trim().parse().expect("a number")
}

#[test]
fn the_deadline_is_on_a_clock_that_nobody_sets() {
    assert_eq!(clock(None), 7);
}

#[test]
fn mutant_wall_clock_is_noticed() {
    assert_eq!(clock(Some("wall-clock")), 0, "the mistake was never planted");
}

fn pid(guards: &Guards) -> Pid {
    Pid::from_raw(guards.keepers[0].pid().try_into().expect("a pid"))
}

/// In a lease of a second, of which nobody may keep a whole one.
#[test]
fn a_guard_is_replaced_within_a_short_lease() {
    let guards = Guards::start(None);
    let (guard, mut before) = (pid(&guards), guards.connect());
    let held = before.take_lease(1_000, Duration::ZERO).held.expect("a lease");
    kill(guard, Signal::SIGHUP).expect("a guard");
    // The one that took its place knows nobody yet.
    assert_eq!(before.0.read_line(&mut String::new()).expect("an end"), 0);
    let mut after = until(5, "the new program", || guards.try_connect());
    let status: Status = after.ask("status").parse().expect("a status");
    assert_eq!(status.held, Some(held), "what was held is lost");
}

#[test]
fn a_guard_whose_new_program_hangs_ends_with_its_lease() {
    let programs = tempfile::tempdir().expect("a directory");
    let place = |name: &str| programs.path().join(name);
    for name in ["fleet-guard", "fleet-init"] {
        fs::copy(binary().with_file_name(name), place(name)).expect("a program");
    }
    let guards = Guards::beside(&place("fleet-cluster"), None);
    let (guard, mut asking) = (pid(&guards), guards.connect());
    let held = asking.take_lease(3_000, Duration::ZERO).held.expect("a lease");
    fs::remove_file(place("fleet-guard")).expect("a program");
    fs::write(place("fleet-guard"), "#!/bin/sh\nexec sleep infinity\n").expect("a program");
    fs::set_permissions(place("fleet-guard"), Permissions::from_mode(0o755)).expect("a program");
    kill(guard, Signal::SIGHUP).expect("a guard");
    let name = || fs::read_to_string(format!("/proc/{guard}/comm")).ok();
    until(5, "the new program", || name().filter(|name| name.trim() == "sleep"));
    until(20, "the end", || name().is_none().then_some(()));
    assert!(boot_ms() >= held.deadline_ms, "it ended before its lease");
}
