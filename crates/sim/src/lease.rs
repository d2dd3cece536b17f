//! One lease, message by message: a holder, three voters, whoever of them leads or believes to,
//! and a network that loses, delays and reorders. Small, so that millions of takeovers can be
//! looked at; [`crate::run`] has the whole cluster instead.
//!
//! A run begins with a lease just granted and ends when the fence of the holder's epoch is on the
//! disks of a quorum, or when it is long. The promise: at that moment nothing of the holder
//! executes. The lease is the node's, which strict agents run under, or the longer one of its
//! sticky agents, which the same renewals prolong. Times are microseconds of true time; each
//! machine's own clock runs up to [`DRIFT_PERMILLE`] fast or slow.

use std::{cmp::Reverse, collections::BinaryHeap};

pub use fleet_types::AgentClass;
use fleet_types::{LeaseProfile, LeaseTiming};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::mistake::Mistake;

/// Voters, and how many of them are a quorum.
const VOTERS: usize = 3;
const QUORUM: usize = 2;
/// As in the whole world: inside what the two lease margins cover.
const DRIFT_PERMILLE: i64 = 70;
/// Longest delay of a message.
const DELAY_MAX: i64 = 12_000_000;
/// Longest pause between a leader's looks for the silent, for each lease of the node.
const LOOK: i64 = 100_000;
/// A run is over at the latest after so many lease lengths.
const LEASES_MAX: i64 = 6;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody fenced the holder.
    Kept,
    /// It was fenced, and nothing of it executed any more.
    Fenced,
    /// It was fenced while it executed, this many microseconds too early.
    Overlap(i64),
}

#[derive(Clone, Copy)]
enum Event {
    /// The holder asks again.
    Ask,
    /// A renewal stamped at this time of the holder's clock reaches a leader.
    Renew { leader: usize, stamp: i64 },
    /// A message of a leader's round reaches a voter.
    Round { round: usize, voter: usize },
    /// A voter's answer to it reaches the leader.
    Answer { round: usize },
    /// A grant reaches the holder.
    Grant { stamp: i64 },
    /// A leader looks for the silent.
    Look { leader: usize },
    /// A voter wants to lead.
    Stand { voter: usize },
    /// Its request reaches another voter.
    VoteRequest { candidate: usize, voter: usize },
    /// A vote reaches the candidate, with how long ago the voter heard an older leader.
    Vote { candidate: usize, ago: i64 },
}

#[derive(Clone, Copy, Default)]
struct Voter {
    rate_permille: i64,
    term: u64,
    /// When a leader was last heard.
    heard: i64,
}

#[derive(Clone, Copy)]
struct Candidate {
    voter: usize,
    term: u64,
    votes: usize,
    newest: i64,
    oldest: i64,
}

/// One who believes to lead. Times are its own clock's.
struct Leader {
    voter: usize,
    term: u64,
    predecessors: i64,
    patient_until: i64,
    heard: i64,
    fencing: bool,
    /// When a quorum last answered a round.
    confirmed: Option<i64>,
}

/// What a round is for.
#[derive(Clone, Copy)]
enum Purpose {
    /// To grant what was stamped and received then.
    Grant {
        stamp: i64,
        receipt: i64,
    },
    Fence,
}

struct Round {
    leader: usize,
    purpose: Purpose,
    answers: usize,
}

struct Lease {
    rng: ChaCha8Rng,
    mistake: Option<Mistake>,
    /// Of the node, but for the length of the lease.
    timing: LeaseTiming,
    /// How many leases of the node it lasts.
    leases: i64,
    /// How long a new leader fences nobody.
    patience: i64,
    now: i64,
    events: BinaryHeap<Reverse<(i64, u32, usize)>>,
    stored: Vec<Event>,
    voters: [Voter; VOTERS],
    candidates: Vec<Candidate>,
    leaders: Vec<Leader>,
    rounds: Vec<Round>,
    holder_permille: i64,
    /// Of the holder's clock.
    deadline: i64,
    /// From when on the holder reaches nobody.
    cut: i64,
    /// How likely a message is late or lost, in hundredths.
    late: i64,
    lost: i64,
}

/// Microseconds.
fn us(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX / 1_000) * 1_000
}

/// One run of the lease of a class that has an end; the seed determines it.
pub fn run(seed: u64, class: AgentClass, mistake: Option<Mistake>) -> Outcome {
    let mut lease = Lease::new(seed, class, mistake);
    let end = LEASES_MAX * us(lease.timing.lease_ms);
    while let Some(Reverse((at, _, event))) = lease.events.pop() {
        lease.now = at;
        if at > end {
            break;
        }
        if let Some(outcome) = lease.happens(lease.stored[event]) {
            return outcome;
        }
    }
    Outcome::Kept
}

impl Lease {
    fn new(seed: u64, class: AgentClass, mistake: Option<Mistake>) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let profiles = [LeaseProfile::Default, LeaseProfile::Fast, LeaseProfile::Aggressive];
        let node = LeaseTiming::of(profiles[rng.random_range(0..profiles.len())]);
        let timing = LeaseTiming { lease_ms: class.lease_ms(node.lease_ms), ..node };
        let lease = us(timing.lease_ms);
        let mut rate = || 1_000 + rng.random_range(-DRIFT_PERMILLE..=DRIFT_PERMILLE);
        let voters = std::array::from_fn(|_| Voter { rate_permille: rate(), term: 1, heard: 0 });
        let holder_permille = rate();
        let (late, lost) = (rng.random_range(0..30), rng.random_range(0..20));
        let cut = rng.random_bool(0.8).then(|| rng.random_range(0..2 * us(node.lease_ms)));
        let elections = rng.random_range(0..4);
        let stands: Vec<(i64, usize)> = (0..elections)
            .map(|_| (rng.random_range(0..3 * lease), rng.random_range(0..VOTERS)))
            .collect();
        let mut this = Self {
            rng,
            mistake,
            timing,
            leases: us(timing.lease_ms) / us(node.lease_ms),
            patience: us(node.patience_ms()),
            now: 0,
            events: BinaryHeap::new(),
            stored: Vec::new(),
            voters,
            candidates: Vec::new(),
            leaders: Vec::new(),
            rounds: Vec::new(),
            holder_permille,
            deadline: us(timing.holder_ms()),
            cut: cut.unwrap_or(i64::MAX),
            late,
            lost,
        };
        this.leaders.push(Leader {
            voter: 0,
            term: 1,
            predecessors: 0,
            patient_until: 0,
            heard: 0,
            fencing: false,
            confirmed: Some(0),
        });
        this.at(0, Event::Ask);
        this.at(0, Event::Look { leader: 0 });
        for (at, voter) in stands {
            this.at(at, Event::Stand { voter });
        }
        this
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn at(&mut self, at: i64, event: Event) {
        let number = self.stored.len();
        self.stored.push(event);
        // What happens at the same time happens in any order.
        let order = self.rng.random();
        self.events.push(Reverse((at, order, number)));
    }

    /// Sends a message; it may be late or lost.
    fn send(&mut self, event: Event) {
        if self.rng.random_range(0..100) < self.lost {
            return;
        }
        let delay = if self.rng.random_range(0..100) < self.late {
            self.rng.random_range(0..DELAY_MAX)
        } else {
            self.rng.random_range(100..3_000)
        };
        self.at(self.now + delay, event);
    }

    fn clock_of(&self, leader: usize) -> i64 {
        self.now * self.voters[self.leaders[leader].voter].rate_permille / 1_000
    }

    fn holder_clock(&self) -> i64 {
        self.now * self.holder_permille / 1_000
    }

    fn happens(&mut self, event: Event) -> Option<Outcome> {
        match event {
            Event::Ask => self.ask(),
            Event::Renew { leader, stamp } => self.renewed(leader, stamp),
            Event::Round { round, voter } => self.asked(round, voter),
            Event::Answer { round } => return self.answered(round),
            Event::Grant { stamp } => self.granted(stamp),
            Event::Look { leader } => self.look(leader),
            Event::Stand { voter } => self.stands(voter),
            Event::VoteRequest { candidate, voter } => self.votes(candidate, voter),
            Event::Vote { candidate, ago } => self.counts(candidate, ago),
        }
        None
    }

    fn ask(&mut self) {
        if self.holder_clock() >= self.deadline {
            return;
        }
        let stamp = self.holder_clock();
        if self.now < self.cut {
            // Any member may pass it on to whoever it takes for the leader.
            let leader = self.rng.random_range(0..self.leaders.len());
            self.send(Event::Renew { leader, stamp });
        }
        let next = us(self.timing.renew_ms) * 1_000 / self.holder_permille;
        self.at(self.now + next, Event::Ask);
    }

    fn renewed(&mut self, leader: usize, stamp: i64) {
        let receipt = self.clock_of(leader);
        let known = &self.leaders[leader];
        if known.fencing {
            return;
        }
        let recent = receipt - DELAY_MAX;
        let stale = self.is(Mistake::RoundBeforeReceipt)
            && known.confirmed.is_some_and(|confirmed| confirmed > recent);
        if stale || self.is(Mistake::GrantsWithoutQuorum) {
            self.grant(leader, stamp, receipt);
            return;
        }
        let purpose = Purpose::Grant { stamp, receipt };
        self.begin(leader, purpose);
    }

    fn begin(&mut self, leader: usize, purpose: Purpose) {
        let round = self.rounds.len();
        self.rounds.push(Round { leader, purpose, answers: 0 });
        let own = self.leaders[leader].voter;
        for voter in (0..VOTERS).filter(|voter| *voter != own) {
            self.send(Event::Round { round, voter });
        }
        // It answers itself, unless it voted for another since.
        self.at(self.now, Event::Round { round, voter: own });
    }

    fn asked(&mut self, round: usize, voter: usize) {
        let leader = &self.leaders[self.rounds[round].leader];
        let (term, own) = (leader.term, leader.voter == voter);
        if self.voters[voter].term > term {
            return;
        }
        self.voters[voter].term = term;
        self.voters[voter].heard = self.now;
        if own {
            self.at(self.now, Event::Answer { round });
        } else {
            self.send(Event::Answer { round });
        }
    }

    fn answered(&mut self, round: usize) -> Option<Outcome> {
        self.rounds[round].answers += 1;
        let Round { leader, purpose, answers } = self.rounds[round];
        if answers != QUORUM {
            return None;
        }
        self.leaders[leader].confirmed = Some(self.clock_of(leader));
        match purpose {
            Purpose::Grant { stamp, receipt } => self.grant(leader, stamp, receipt),
            Purpose::Fence => return Some(self.verdict()),
        }
        None
    }

    fn grant(&mut self, leader: usize, stamp: i64, receipt: i64) {
        let known = &mut self.leaders[leader];
        if !known.fencing {
            known.heard = known.heard.max(receipt);
            self.send(Event::Grant { stamp });
        }
    }

    fn granted(&mut self, stamp: i64) {
        // A lease that is over is over: the kernel has killed.
        if self.holder_clock() >= self.deadline || self.now >= self.cut {
            return;
        }
        let from = if self.is(Mistake::CountsFromTheGrant) { self.holder_clock() } else { stamp };
        self.deadline = self.deadline.max(from + us(self.timing.holder_ms()));
        if self.is(Mistake::WallClock) && self.rng.random_bool(0.1) {
            // The clock was set back, so the deadline is that much later.
            self.deadline += self.rng.random_range(0..us(self.timing.lease_ms));
        }
    }

    fn look(&mut self, leader: usize) {
        let now = self.clock_of(leader);
        let known = &self.leaders[leader];
        let since = known.heard.max(known.predecessors);
        let wait = if self.is(Mistake::WaitsTooShort) {
            us(self.timing.lease_ms) / 2
        } else {
            us(self.timing.fence_after_ms())
        };
        if now >= known.patient_until && now - since >= wait {
            self.leaders[leader].fencing = true;
            self.begin(leader, Purpose::Fence);
        }
        // A fence that was lost is proposed again.
        let pause = self.rng.random_range(1_000..LOOK * self.leases);
        self.at(self.now + pause, Event::Look { leader });
    }

    fn stands(&mut self, voter: usize) {
        let term = self.voters.iter().map(|v| v.term).max().unwrap_or(0) + 1;
        let candidate = self.candidates.len();
        let (newest, oldest) = (i64::MAX, i64::MIN);
        self.candidates.push(Candidate { voter, term, votes: 0, newest, oldest });
        for other in (0..VOTERS).filter(|other| *other != voter) {
            self.send(Event::VoteRequest { candidate, voter: other });
        }
        self.at(self.now, Event::VoteRequest { candidate, voter });
    }

    fn votes(&mut self, candidate: usize, voter: usize) {
        let Candidate { term, voter: own, .. } = self.candidates[candidate];
        let asked = &mut self.voters[voter];
        if asked.term >= term {
            return;
        }
        asked.term = term;
        let ago = (self.now - asked.heard) * asked.rate_permille / 1_000;
        if own == voter {
            self.at(self.now, Event::Vote { candidate, ago });
        } else {
            self.send(Event::Vote { candidate, ago });
        }
    }

    fn counts(&mut self, candidate: usize, ago: i64) {
        let now = self.now * self.voters[self.candidates[candidate].voter].rate_permille / 1_000;
        let counted = &mut self.candidates[candidate];
        counted.votes += 1;
        counted.newest = counted.newest.min(ago);
        counted.oldest = counted.oldest.max(ago);
        let Candidate { voter, term, votes, newest, oldest } = *counted;
        if votes != QUORUM {
            return;
        }
        let ago = if self.is(Mistake::CountsFromTheOldestAnswer) { oldest } else { newest };
        let margin = i64::try_from(LeaseTiming::WAITER_MARGIN_PERMILLE).unwrap_or(0);
        let (mut predecessors, mut patient_until) =
            (now - ago * (1_000 - margin) / 1_000, now + self.patience);
        if self.is(Mistake::NewLeaderDoesNotWait) {
            (predecessors, patient_until) = (now - us(self.timing.fence_after_ms()), now);
        }
        let leader = self.leaders.len();
        self.leaders.push(Leader {
            voter,
            term,
            predecessors,
            patient_until,
            heard: i64::MIN,
            fencing: false,
            confirmed: None,
        });
        self.at(self.now, Event::Look { leader });
    }

    /// A fence is on the disks of a quorum: nothing of the holder may execute.
    fn verdict(&mut self) -> Outcome {
        let killed_within = us(self.timing.kill_and_drain_ms);
        let over = self.deadline * 1_000 / self.holder_permille;
        let gone = over + self.rng.random_range(0..=killed_within);
        if gone <= self.now { Outcome::Fenced } else { Outcome::Overlap(gone - self.now) }
    }
}
