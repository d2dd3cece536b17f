//! How many agents start at once, whose turn it is, and how long the others may have to wait. A
//! start costs seconds of processor time; too many at once all take longer than they may.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Default)]
struct Line {
    next: u64,
    waiting: BTreeSet<u64>,
    /// Of late, from permit to ready; none before the first.
    start: Option<Duration>,
}

/// The one who lets agents start, the oldest request first.
pub(crate) struct Governor {
    width: usize,
    slots: Arc<Semaphore>,
    line: Mutex<Line>,
}

/// A place in the line; leaving it is dropping this.
pub(crate) struct Ticket {
    governor: Arc<Governor>,
    number: u64,
}

/// Leave to start.
pub(crate) struct Permit {
    governor: Arc<Governor>,
    since: Instant,
    _slot: OwnedSemaphorePermit,
}

impl Governor {
    /// Lets `width` start at once.
    pub(crate) fn new(width: usize) -> Self {
        Self { width, slots: Arc::new(Semaphore::new(width)), line: Mutex::default() }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("no holder panics")
    }

    /// Takes the last place.
    pub(crate) fn line_up(self: &Arc<Self>) -> Ticket {
        let mut line = self.line();
        let number = line.next;
        line.next += 1;
        line.waiting.insert(number);
        Ticket { governor: self.clone(), number }
    }

    /// How many are before place `number`, and about how long it will take, in words.
    pub(crate) fn describe(&self, number: u64) -> String {
        let line = self.line();
        let before = line.waiting.range(..number).count();
        let rounds = u32::try_from(before / self.width + 1).unwrap_or(u32::MAX);
        let about = line.start.map(|start| (start * rounds).as_secs().max(1));
        let about = about.map_or_else(String::new, |s| format!(", about {s} s"));
        format!("waits for its turn to start: {before} before it{about}")
    }
}

impl Ticket {
    /// Its place, for [`Governor::describe`].
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Returns when it may start.
    pub(crate) async fn turn(self) -> Permit {
        let slots = self.governor.slots.clone();
        let slot = slots.acquire_owned().await.expect("the governor is never closed");
        Permit { governor: self.governor.clone(), since: Instant::now(), _slot: slot }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.governor.line().waiting.remove(&self.number);
    }
}

impl Permit {
    /// Gives it back, because the agent is ready.
    pub(crate) fn started(self) {
        let took = self.since.elapsed();
        let mut line = self.governor.line();
        // The newest counts for a quarter.
        line.start = Some(line.start.map_or(took, |start| (start * 3 + took) / 4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_line_moves_and_says_how_long_it_is() {
        let governor = Arc::new(Governor::new(2));
        let mut permits = Vec::new();
        for _ in 0..2 {
            permits.push(governor.line_up().turn().await);
        }
        let tickets: Vec<Ticket> = (0..5).map(|_| governor.line_up()).collect();
        let last = tickets[4].number();
        assert_eq!(governor.describe(last), "waits for its turn to start: 4 before it");
        governor.line().start = Some(Duration::from_secs(10));
        assert!(governor.describe(last).ends_with("4 before it, about 30 s"));
        let mut tickets = tickets.into_iter();
        // One gives up, one gets its turn.
        drop(tickets.next());
        permits.pop().unwrap().started();
        let _permit = tickets.next().unwrap().turn().await;
        assert!(governor.describe(last).starts_with("waits for its turn to start: 2 before it"));
        let start = governor.line().start.unwrap();
        assert!(start < Duration::from_secs(10), "the newest start counts: {start:?}");
    }
}
