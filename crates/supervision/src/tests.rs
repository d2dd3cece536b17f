//! The table, walked by hand and at random.

use proptest::prelude::*;

use crate::{Action, Event, Exit, Fault, HINDERED, Life, Past, Policy, State};

fn policy() -> Policy {
    Policy {
        start_timeout_ms: 1_000,
        stop_timeout_ms: 500,
        backoff_min_ms: 100,
        backoff_max_ms: 800,
        healthy_after_ms: 10_000,
        crashes_max: 5,
        crash_window_ms: 60_000,
        probe_failures: 2,
        liveness_failures: 3,
        repair_exit_codes: vec![78],
        repair_timeout_ms: 2_000,
        fatal_exit_codes: vec![64],
    }
}

fn started() -> Life {
    let mut life = Life::new(policy());
    assert_eq!(life.on(Event::Want, 0, 0), [Action::AskPermit]);
    assert_eq!(life.on(Event::Permit, 1, 0), [Action::Launch]);
    assert_eq!(life.on(Event::Launched, 2, 0), []);
    life
}

#[test]
fn up_is_not_ready() {
    let mut life = started();
    assert_eq!(life.state(), State::Starting);
    assert_eq!(life.on(Event::ProbeOk, 3, 0), [Action::ReleasePermit]);
    assert_eq!(life.state(), State::Ready);
    life.on(Event::ProbeFailed { why: "slow".into() }, 4, 0);
    assert_eq!(life.state(), State::Ready, "one failure is forgiven");
    life.on(Event::ProbeFailed { why: "slow".into() }, 5, 0);
    assert_eq!(life.state(), State::Unready);
    life.on(Event::ProbeOk, 6, 0);
    assert_eq!(life.state(), State::Ready);
}

#[test]
fn one_over_its_limit_is_ended_at_once_and_parked() {
    let mut life = started();
    life.on(Event::ProbeOk, 3, 0);
    assert_eq!(life.on(Event::OverLimit { why: "full".into() }, 4, 0), [Action::Kill]);
    life.on(Event::Exited(Exit::Signal(9)), 5, 0);
    life.on(Event::Emptied, 6, 0);
    assert_eq!(life.state(), State::CrashLooping);
    assert!(life.message().starts_with("full"), "{}", life.message());
    assert_eq!(life.on(Event::OverLimit { why: "late".into() }, 7, 0), []);
    assert_eq!(life.on(Event::Restart, 8, 0), [Action::AskPermit]);
}

/// As a daemon that comes back would go on.
fn again(life: &Life) -> Life {
    Life::resume(policy(), life.past())
}

#[test]
fn who_comes_back_holds_against_it_what_was_held_before() {
    let mut life = started();
    assert_eq!(life.past(), Past::default());
    for n in 1..5 {
        life.on(Event::Exited(Exit::Code(1)), 10 * n, 0);
        life.on(Event::Emptied, 10 * n, 0);
        assert_ne!(life.state(), State::CrashLooping);
        life = again(&life);
        assert_eq!(life.on(Event::Want, 10 * n + 1, 0), [Action::AskPermit]);
        life.on(Event::Permit, 10 * n + 2, 0);
        life.on(Event::Launched, 10 * n + 3, 0);
    }
    life.on(Event::Exited(Exit::Code(1)), 60, 0);
    life.on(Event::Emptied, 61, 0);
    let why = life.message().to_owned();
    life = again(&life);
    assert_eq!((life.state(), life.message()), (State::CrashLooping, why.as_str()));
    assert_eq!(life.on(Event::Want, 62, 0), [], "a wish is no mending");
    assert_eq!(life.on(Event::Restart, 63, 0), [Action::AskPermit]);
    assert_eq!(life.past(), Past::default(), "its owner forgave it");
}

#[test]
fn what_was_ready_is_not_started_again_for_a_slow_answer_to_who_comes_back() {
    let mut life = started();
    let mut slow = again(&life);
    slow.on(Event::Adopted, 3, 0);
    assert_eq!((slow.state(), slow.deadline()), (State::Starting, Some(1_003)));
    life.on(Event::ProbeOk, 3, 0);
    for n in 4..6 {
        life.on(Event::ProbeFailed { why: "slow".into() }, n, 0);
    }
    assert_eq!(life.state(), State::Unready);
    life = again(&life);
    life.on(Event::Adopted, 7, 0);
    assert_eq!((life.state(), life.deadline()), (State::Ready, None));
}

#[test]
fn what_hangs_once_it_is_ready_is_not_healthy_for_that_time() {
    let mut life = started();
    let mut now = 3;
    for pause in [false, true] {
        life.on(Event::ProbeOk, now, 0);
        for n in 1..3 {
            life.on(Event::ProbeFailed { why: "hangs".into() }, now + n, 0);
        }
        now += 2 * policy().healthy_after_ms;
        life.on(Event::Time, now, 0);
        life.on(Event::ProbeOk, now, 0);
        assert_eq!(life.deadline().is_some(), pause, "it is forgiven once it is well");
        life.on(Event::Exited(Exit::Signal(9)), now, 0);
        life.on(Event::Emptied, now, 0);
        let waits = life.state() == State::BackingOff;
        assert_eq!(waits, pause, "{:?}", life.state());
        life.on(Event::Permit, now, 0);
        life.on(Event::Launched, now, 0);
    }
}

#[test]
fn an_end_that_nobody_told_of_is_not_held_against_it() {
    let mut life = started();
    life.on(Event::ProbeOk, 3, 0);
    assert_eq!(life.on(Event::Exited(Exit::Untold), 4, 0), [Action::Kill]);
    assert_eq!(life.on(Event::Emptied, 5, 0), [Action::AskPermit]);
    assert_eq!(life.past(), Past::default());
}

#[test]
fn a_repair_that_did_not_run_is_due_still() {
    let broken = |life: &mut Life, now| {
        life.on(Event::Exited(Exit::Code(78)), now, 0);
        life.on(Event::Emptied, now, 0);
    };
    let mut life = started();
    broken(&mut life, 3);
    // The daemon ends while the repair waits for its turn.
    life = again(&life);
    life.on(Event::Want, 4, 0);
    life.on(Event::Permit, 5, 0);
    life.on(Event::Launched, 6, 0);
    broken(&mut life, 7);
    assert_eq!(life.on(Event::Permit, 8, 0), [Action::Repair]);
    life.on(Event::LaunchFailed { why: "no memory".into(), fault: Fault::Agent }, 9, 0);
    life.on(Event::Emptied, 10, 0);
    life.on(Event::Time, 2_000, 0);
    life.on(Event::Permit, 2_001, 0);
    life.on(Event::Launched, 2_002, 0);
    broken(&mut life, 2_003);
    runs_its_repair(&mut life, 2_004);
    broken(&mut life, 2_010);
    assert_eq!(life.state(), State::CrashLooping, "once it ran it is not tried again");
}

#[test]
fn a_healthy_run_is_forgiven_while_it_lasts() {
    let mut life = started();
    repaired(&mut life);
    life.on(Event::ProbeOk, 13, 0);
    assert!(life.past().repaired);
    assert_eq!(life.deadline(), Some(10_013));
    life.on(Event::Time, 10_013, 0);
    assert_eq!(life.past(), Past { ready: true, ..Past::default() });
}

#[test]
fn a_repair_that_is_adopted_is_one() {
    let mut life = started();
    life.on(Event::Exited(Exit::Code(78)), 3, 0);
    life.on(Event::Emptied, 4, 0);
    assert_eq!(life.on(Event::Permit, 5, 0), [Action::Repair]);
    life.on(Event::Launched, 6, 0);
    let mut life = again(&life);
    life.on(Event::Adopted, 7, 0);
    assert_eq!(life.state(), State::Repairing);
    life.on(Event::Exited(Exit::Code(0)), 8, 0);
    life.on(Event::Emptied, 9, 0);
    assert_eq!(life.on(Event::Permit, 10, 0), [Action::Launch]);
    life.on(Event::Launched, 11, 0);
    life.on(Event::Exited(Exit::Code(78)), 12, 0);
    life.on(Event::Emptied, 13, 0);
    assert_eq!(life.state(), State::CrashLooping, "once");
}

#[test]
fn stopping_drains_then_kills_then_rests() {
    let mut life = started();
    life.on(Event::ProbeOk, 3, 0);
    assert_eq!(life.draining_ms(9), None);
    assert_eq!(life.on(Event::Unwant, 10, 0), [Action::Terminate]);
    assert_eq!(life.on(Event::Time, 509, 0), [], "it may still drain");
    assert_eq!(life.draining_ms(509), Some((499, 500)));
    assert_eq!(life.on(Event::Time, 510, 0), [Action::Kill]);
    assert_eq!(life.on(Event::Exited(Exit::Signal(9)), 511, 0), []);
    assert!(!life.at_rest(), "an ended main process is not an empty group");
    life.on(Event::Emptied, 512, 0);
    assert_eq!(life.state(), State::Stopped);
}

#[test]
fn pauses_grow_and_a_crash_loop_is_parked_until_someone_restarts_it() {
    let mut life = started();
    let mut now = 10;
    life.on(Event::Exited(Exit::Code(1)), now, 0);
    assert_eq!(life.on(Event::Emptied, now, 0), [Action::AskPermit], "the first try is at once");
    life.on(Event::Permit, now, 0);
    life.on(Event::Launched, now, 0);
    for pause in [100, 200, 400] {
        assert!(life.on(Event::Exited(Exit::Code(1)), now, 0).contains(&Action::Kill));
        life.on(Event::Emptied, now, 0);
        assert_eq!(life.state(), State::BackingOff);
        assert_eq!(life.deadline(), Some(now + pause));
        now += pause;
        assert_eq!(life.on(Event::Time, now, 0), [Action::AskPermit]);
        life.on(Event::Permit, now, 0);
        life.on(Event::Launched, now, 0);
    }
    life.on(Event::Exited(Exit::Code(1)), now, 0);
    life.on(Event::Emptied, now, 0);
    assert_eq!(life.state(), State::CrashLooping);
    assert!(life.message().contains("exit code 1"));
    assert_eq!(life.on(Event::Want, now, 0), [], "wanting it again is no reason to try");
    assert_eq!(life.on(Event::Restart, now, 0), [Action::AskPermit]);
}

#[test]
fn a_fatal_exit_code_is_parked_at_once() {
    let mut life = started();
    life.on(Event::Exited(Exit::Code(64)), 5, 0);
    life.on(Event::Emptied, 6, 0);
    assert_eq!(life.state(), State::CrashLooping);
}

/// From an end with the exit code that asks for it to the end of the repair.
fn repaired(life: &mut Life) {
    life.on(Event::Exited(Exit::Code(78)), 5, 0);
    assert_eq!(life.on(Event::Emptied, 6, 0), [Action::AskPermit]);
    runs_its_repair(life, 7);
}

/// Its repair is permitted and runs, and it is launched once more.
fn runs_its_repair(life: &mut Life, from_ms: u64) {
    assert_eq!(life.on(Event::Permit, from_ms, 0), [Action::Repair]);
    life.on(Event::Launched, from_ms + 1, 0);
    assert_eq!(life.state(), State::Repairing);
    let actions = life.on(Event::Exited(Exit::Code(0)), from_ms + 2, 0);
    assert_eq!(actions, [Action::ReleasePermit, Action::Kill]);
    assert_eq!(life.on(Event::Emptied, from_ms + 3, 0), [Action::AskPermit]);
    assert_eq!(life.on(Event::Permit, from_ms + 4, 0), [Action::Launch]);
    life.on(Event::Launched, from_ms + 5, 0);
}

#[test]
fn a_repair_is_tried_once_and_what_it_does_not_cure_is_parked() {
    let mut life = started();
    repaired(&mut life);
    life.on(Event::Exited(Exit::Code(78)), 13, 0);
    life.on(Event::Emptied, 14, 0);
    assert_eq!(life.state(), State::CrashLooping);
    assert!(life.message().contains("exit code 78"));
}

#[test]
fn what_a_repair_cured_may_be_repaired_again_some_day() {
    let mut life = started();
    repaired(&mut life);
    life.on(Event::ProbeOk, 20, 0);
    life.on(Event::Exited(Exit::Code(78)), 20 + 10_000, 0);
    life.on(Event::Emptied, 20 + 10_000, 0);
    assert_eq!(life.on(Event::Permit, 20 + 10_000, 0), [Action::Repair]);
}

#[test]
fn a_repair_that_hangs_is_ended() {
    let mut life = started();
    life.on(Event::Exited(Exit::Code(78)), 5, 0);
    life.on(Event::Emptied, 6, 0);
    life.on(Event::Permit, 7, 0);
    life.on(Event::Launched, 8, 0);
    let ended = life.on(Event::Time, 8 + 2_000, 0);
    assert_eq!(ended, [Action::ReleasePermit, Action::Terminate]);
    life.on(Event::Exited(Exit::Signal(15)), 2_100, 0);
    assert_eq!(life.on(Event::Emptied, 2_101, 0), [Action::AskPermit]);
    assert_eq!(life.on(Event::Permit, 2_102, 0), [Action::Launch]);
}

#[test]
fn what_runs_and_does_not_answer_is_started_again() {
    let mut life = started();
    let silent = || Event::LivenessFailed { why: "no answer".into() };
    for now in 3..9 {
        assert_eq!(life.on(silent(), now, 0), [], "it may take its time to start");
    }
    life.on(Event::ProbeOk, 10, 0);
    assert_eq!(life.on(silent(), 11, 0), []);
    life.on(Event::LivenessOk, 12, 0);
    assert_eq!(life.on(silent(), 13, 0), []);
    assert_eq!(life.on(silent(), 14, 0), []);
    assert_eq!(life.on(silent(), 15, 0), [Action::Terminate]);
    life.on(Event::Exited(Exit::Code(0)), 16, 0);
    assert_eq!(life.on(Event::Emptied, 17, 0), [Action::AskPermit]);
    assert!(life.message().contains("does not answer"));
}

#[test]
fn a_healthy_run_forgets_earlier_crashes() {
    let mut life = started();
    life.on(Event::Exited(Exit::Code(1)), 3, 0);
    life.on(Event::Emptied, 3, 0);
    life.on(Event::Permit, 103, 0);
    life.on(Event::Launched, 103, 0);
    life.on(Event::ProbeOk, 104, 0);
    life.on(Event::Exited(Exit::Code(1)), 104 + 10_000, 0);
    assert_eq!(life.on(Event::Emptied, 104 + 10_000, 0), [Action::AskPermit]);
}

#[test]
fn unwanted_while_launching_stops_once_it_is_there() {
    let mut life = Life::new(policy());
    life.on(Event::Want, 0, 0);
    life.on(Event::Permit, 0, 0);
    assert_eq!(life.on(Event::Unwant, 1, 0), []);
    assert_eq!(life.on(Event::Launched, 2, 0), [Action::ReleasePermit, Action::Terminate]);
}

/// What is being launched is what was asked for before.
#[test]
fn restarted_while_launching_starts_anew_once_it_is_there() {
    for (before, fails) in [(None, false), (Some(Event::Unwant), false), (None, true)] {
        let mut life = Life::new(policy());
        life.on(Event::Want, 0, 0);
        life.on(Event::Permit, 0, 0);
        before.map(|before| life.on(before, 1, 0));
        assert_eq!(life.on(Event::Restart, 2, 0), []);
        if fails {
            let failed = Event::LaunchFailed { why: "no".into(), fault: Fault::Lasting };
            assert_eq!(life.on(failed, 3, 0), [Action::ReleasePermit, Action::Kill]);
        } else {
            let stopped = [Action::ReleasePermit, Action::Terminate];
            assert_eq!(life.on(Event::Launched, 3, 0), stopped);
            assert_eq!(life.on(Event::Exited(Exit::Signal(15)), 4, 0), [Action::Kill]);
        }
        assert_eq!(life.on(Event::Emptied, 5, 0), [Action::AskPermit]);
        assert_eq!(life.on(Event::Permit, 6, 0), [Action::Launch]);
        assert_eq!(life.on(Event::Launched, 7, 0), []);
        assert_eq!(life.state(), State::Starting);
    }
}

#[test]
fn what_its_node_cannot_do_is_not_held_against_an_agent() {
    let mut life = Life::new(policy());
    life.on(Event::Want, 0, 0);
    let (mut now, mut longest) = (0, 0);
    for _ in 0..100 {
        assert_eq!(life.on(Event::Permit, now, 0), [Action::Launch]);
        let failed = Event::LaunchFailed { why: "no guard".into(), fault: Fault::Node };
        assert_eq!(life.on(failed, now, 0), [Action::ReleasePermit, Action::Kill]);
        life.on(Event::Emptied, now, 0);
        if let Some(due) = life.deadline() {
            longest = longest.max(due - now);
            now = due;
            assert_eq!(life.on(Event::Time, now, 0), [Action::AskPermit]);
        }
        assert_eq!((life.state(), life.message()), (State::Waiting, "no guard"));
    }
    let policy = policy();
    assert_eq!(longest, (policy.backoff_min_ms << 4).min(policy.backoff_max_ms));
    assert_eq!(life.past(), Past::default());

    // Nor what it is kept from after its process is there.
    for _ in 0..100 {
        assert_eq!(life.on(Event::Permit, now, 0), [Action::Launch]);
        life.on(Event::Launched, now, 0);
        // Its probe may have come first.
        assert_eq!(life.on(Event::ProbeOk, now, 0), [Action::ReleasePermit]);
        assert_eq!(life.on(Event::Exited(Exit::Hindered), now, 0), [Action::Kill]);
        assert_eq!(life.on(Event::Emptied, now, 0), []);
        now = life.deadline().unwrap();
        assert_eq!(life.on(Event::Time, now, 0), [Action::AskPermit]);
        assert_eq!((life.state(), life.message()), (State::Waiting, HINDERED));
    }
    assert_eq!(life.past(), Past::default());
    life.on(Event::Permit, now, 0);
    life.on(Event::Launched, now, 0);
    life.on(Event::Exited(Exit::Code(1)), now, 0);
    assert_eq!(life.on(Event::Emptied, now, 0), [Action::AskPermit], "at once, as the first try");
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Want),
        Just(Event::Unwant),
        Just(Event::Restart),
        Just(Event::Permit),
        Just(Event::Launched),
        prop_oneof![Just(Fault::Agent), Just(Fault::Lasting), Just(Fault::Node)]
            .prop_map(|fault| Event::LaunchFailed { why: "no".into(), fault }),
        Just(Event::ProbeOk),
        Just(Event::ProbeFailed { why: "no".into() }),
        Just(Event::OverLimit { why: "no".into() }),
        Just(Event::LivenessOk),
        Just(Event::LivenessFailed { why: "no".into() }),
        prop_oneof![
            Just(Exit::Code(1)),
            Just(Exit::Code(64)),
            Just(Exit::Code(78)),
            Just(Exit::Signal(9)),
            Just(Exit::Hindered),
        ]
        .prop_map(Event::Exited),
        Just(Event::Emptied),
        Just(Event::Time),
    ]
}

proptest! {
    /// Whatever happens in whatever order: permits balance, nothing launches before the last try
    /// was seen empty, and an unwanted agent comes to rest when the adapter does its part.
    #[test]
    fn any_history_keeps_the_rules(
        events in proptest::collection::vec((event(), 0_u64..2_000), 0..200),
    ) {
        let mut life = Life::new(policy());
        let (mut now, mut permits, mut dirty) = (0, 0, false);
        for (event, passed) in events {
            now += passed;
            if event == Event::Emptied && life.state() == State::Emptying {
                dirty = false;
            }
            for action in life.on(event, now, u32::MAX / 2) {
                match action {
                    Action::AskPermit => permits += 1,
                    Action::ReleasePermit => permits -= 1,
                    Action::Launch | Action::Repair => {
                        prop_assert!(!dirty, "launched on top of the last try");
                        dirty = true;
                    }
                    Action::Terminate | Action::Kill => {}
                }
                prop_assert!((0..=1).contains(&permits));
            }
        }
        life.on(Event::Unwant, now, 0);
        life.on(Event::LaunchFailed { why: "no".into(), fault: Fault::Agent }, now, 0);
        life.on(Event::Exited(Exit::Signal(15)), now, 0);
        life.on(Event::Emptied, now, 0);
        prop_assert_eq!(life.state(), State::Stopped);
    }
}
