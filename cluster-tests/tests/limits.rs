//! An agent that wants everything gets its share, and hurts nobody else.

use std::fs;

use cluster_tests::{Cluster, until};

fn cluster() -> Cluster {
    let cluster = Cluster::formed(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    let quiet = ["--", "/bin/sleep", "infinity"];
    cluster.ok(&[&["agent", "create", "f/quiet", "--runtime", "exec"][..], &quiet].concat());
    cluster
}

fn create(cluster: &Cluster, limits: &[&str], command: &[&str]) {
    let create = ["agent", "create", "f/a", "--runtime", "exec", "--no-wait"];
    cluster.ok(&[&create[..], limits, &["--"], command].concat());
}

/// The neighbour is what it was, and the node answers.
fn unhurt(cluster: &Cluster) {
    let quiet = cluster.agent("f/quiet");
    assert_eq!((&quiet["state"], &quiet["starts"]), (&"STATE_READY".into(), &1.into()), "{quiet}");
}

#[test]
fn one_that_takes_too_much_memory_is_ended_and_it_is_said_why() {
    let cluster = cluster();
    let hog = "x = bytearray(0)\nwhile True: x += bytes(1 << 20)";
    create(&cluster, &["--memory", "64M"], &["/usr/bin/python3", "-c", hog]);
    let message = until(20, "an end", || {
        let agent = cluster.agent("f/a");
        let message = agent["stateMessage"].as_str()?.to_owned();
        message.contains("ended by itself").then_some(message)
    });
    assert!(message.contains("memory limit"), "{message}");
    unhurt(&cluster);
}

#[test]
fn one_that_forks_without_end_forks_in_vain() {
    let cluster = cluster();
    let bomb = "import os, time\nmade = 0\ntry:\n  while True:\n    os.fork() or time.sleep(1000)\n    \
                made += 1\nexcept OSError:\n  print('made', made, flush=True)\n  time.sleep(1000)";
    create(&cluster, &["--processes", "20"], &["/usr/bin/python3", "-c", bomb]);
    let log = until(20, "the last fork", || {
        let log = cluster.ok(&["agent", "logs", "f/a"]);
        log.contains("made").then_some(log)
    });
    assert_eq!(log.trim(), "made 19");
    unhurt(&cluster);
    cluster.ok(&["agent", "stop", "f/a"]);
    assert_eq!(cluster.agent("f/a")["state"], "STATE_STOPPED");
}

#[test]
fn one_that_opens_every_file_runs_out_of_them() {
    let cluster = cluster();
    let open = "import time\nfiles = []\ntry:\n  while True: files.append(open('/dev/null'))\n\
                except OSError as e:\n  print(len(files), e.strerror, flush=True)\n  time.sleep(1000)";
    create(&cluster, &["--open-files", "64"], &["/usr/bin/python3", "-c", open]);
    let log = until(20, "the last file", || {
        let log = cluster.ok(&["agent", "logs", "f/a"]);
        (!log.is_empty()).then_some(log)
    });
    let opened: u32 = log.split(' ').next().unwrap().parse().unwrap();
    assert!(opened <= 61 && log.contains("Too many open files"), "{log}");
    unhurt(&cluster);
}

#[test]
fn one_that_uses_every_core_gets_its_share() {
    let cluster = cluster();
    let spin = "import time\nstart, used = time.monotonic(), time.process_time()\n\
                while time.monotonic() < start + 2: pass\n\
                print('share', time.process_time() - used, flush=True)\ntime.sleep(1000)";
    create(&cluster, &["--cpus", "0.2"], &["/usr/bin/python3", "-c", spin]);
    let share: f64 = until(20, "its end", || {
        let log = cluster.ok(&["agent", "logs", "f/a"]);
        log.trim().strip_prefix("share ")?.parse().ok()
    });
    // Two seconds of a fifth of a core, counted by the kernel; one period more may be had.
    assert!(share < 0.8, "{share} s of processor time");
    unhurt(&cluster);
}

#[test]
fn one_that_floods_its_log_keeps_the_end_of_it() {
    const LOG_BYTES_MAX: u64 = 1 << 20;
    let cluster = Cluster::hosts(1);
    cluster.configure(1, &format!("log_bytes_max = {LOG_BYTES_MAX}\n"));
    let cluster = cluster.form(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    create(&cluster, &[], &["/usr/bin/yes", "a flood"]);
    let older = cluster.folder(1, "data").join("logs/f/a.log.1");
    let changed = || fs::metadata(&older).and_then(|about| about.modified()).ok();
    for cut in 0..3 {
        let before = changed();
        until(20, &format!("cut number {cut}"), || (changed() > before).then_some(()));
    }
    // While the flood goes on a copy may be under way, but never a larger one.
    let kept = fs::metadata(&older).map_or(0, |about| about.len());
    assert!(kept <= LOG_BYTES_MAX, "{kept} bytes");
    // Just after a cut there is nothing yet.
    until(20, "a line", || cluster.ok(&["agent", "logs", "f/a"]).contains("a flood").then_some(()));
    cluster.ok(&["agent", "stop", "f/a"]);
}

#[test]
fn one_that_floods_a_log_of_its_own_size_hurts_no_neighbour() {
    const LOG_BYTES_MAX: u64 = 64 << 10;
    let cluster = cluster();
    let size = LOG_BYTES_MAX.to_string();
    create(&cluster, &["--log-size", &size], &["/usr/bin/yes", "a flood"]);
    let older = cluster.folder(1, "data").join("logs/f/a.log.1");
    let length = || fs::metadata(&older).map(|about| about.len()).ok();
    let kept = until(20, "a cut", || length().filter(|bytes| *bytes > 0));
    assert!(kept <= LOG_BYTES_MAX, "{kept} bytes");
    unhurt(&cluster);
    let said = cluster.ok(&["agent", "logs", "f/quiet"]);
    assert_eq!(said, "", "what one writes is in its own log");
    cluster.ok(&["agent", "stop", "f/a"]);
}

#[test]
fn one_that_opens_a_hundred_thousand_files_hurts_nobody() {
    let cluster = cluster();
    let open = "import resource, time\n\
                most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\nfiles = []\ntry:\n  \
                while len(files) < 100000: files.append(open('/dev/null'))\n\
                except OSError as e: print(e.strerror)\n\
                print('opened', len(files), flush=True)\ntime.sleep(1000)";
    create(&cluster, &[], &["/usr/bin/python3", "-c", open]);
    until(60, "the last file", || {
        cluster.ok(&["agent", "logs", "f/a"]).contains("opened").then_some(())
    });
    unhurt(&cluster);
    cluster.ok(&["agent", "create", "f/b", "--runtime", "exec", "--", "/bin/sleep", "infinity"]);
    cluster.ok(&["agent", "stop", "f/a"]);
}

#[test]
fn absurd_limits_are_refused_by_name() {
    let cluster = cluster();
    for (limits, says) in [
        (["--memory", "1K"], "memory_bytes = 1024 is not between"),
        (["--cpus", "5000"], "cpu_millis = 5000000 is not between"),
        (["--open-files", "3"], "open_files = 3 is not between"),
    ] {
        let create = ["agent", "create", "f/a", "--runtime", "exec"];
        let said = cluster.cli(&[&create[..], &limits, &["--", "/bin/true"]].concat());
        assert_ne!(said.code, 0);
        assert!(said.err.contains(says) && said.err.contains("LIMITS_INVALID"), "{}", said.err);
    }
}

/// An agent writes more than its HOME may hold. Many small files: no single one is too large.
fn fill_home(mebibytes: u32, files: u32) {
    let cluster = cluster();
    let fill = format!(
        "import os, time\nfor n in range({files}):\n  \
         open(os.path.expanduser(f'~/{{n}}'), 'wb').write(bytes(1 << 20))\n  \
         time.sleep(0.02)\nprint('full', flush=True)\ntime.sleep(1000)"
    );
    let size = format!("{mebibytes}M");
    create(&cluster, &["--home-size", &size], &["/usr/bin/python3", "-c", &fill]);
    let message = until(40, "an end", || {
        let agent = cluster.agent("f/a");
        let message = agent["stateMessage"].as_str()?.to_owned();
        (agent["state"] == "STATE_CRASH_LOOPING").then_some(message)
    });
    let says = format!("may hold {mebibytes};");
    assert!(message.contains("its HOME holds") && message.contains(&says), "{message}");
    unhurt(&cluster);
}

#[test]
fn one_that_fills_its_home_is_parked_and_it_is_said_why() {
    fill_home(20, 60);
}

/// The first look at it would be due after a minute.
#[test]
fn one_that_fills_a_large_home_is_looked_at_as_its_disk_fills() {
    fill_home(150, 200);
}

#[test]
fn no_file_of_one_grows_far_past_its_home() {
    let cluster = cluster();
    let grow = "import os, signal, time\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n\
                f = open(os.path.expanduser('~/big'), 'wb')\nf.truncate(1 << 30)\ntry:\n  \
                f.truncate((1 << 30) + 1)\nexcept OSError as e:\n  print(e.strerror, flush=True)\n\
                time.sleep(1000)";
    create(&cluster, &["--home-size", "5M"], &["/usr/bin/python3", "-c", grow]);
    let log = until(20, "the end of the file", || {
        Some(cluster.ok(&["agent", "logs", "f/a"])).filter(|log| !log.is_empty())
    });
    assert_eq!(log.trim(), "File too large");
    unhurt(&cluster);
}
