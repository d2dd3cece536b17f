//! How many agents start at once, whose turn it is, and how long the others may have to wait. A
//! start may cost seconds of processor time; too many at once all take longer than they may.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::JoinHandle};

/// A start shorter than this waits for its parts to hear of each other more than it computes: twice
/// as many at once keep the cores busy.
const SHORT: Duration = Duration::from_millis(50);

/// A start that takes longer than this, and than [`OVERDUE`] usual ones, is none that others wait for:
/// its agent never gets ready, maybe, and would keep them from starting for minutes at each try.
const OVERDUE_MIN: Duration = Duration::from_secs(30);
/// See [`OVERDUE_MIN`].
const OVERDUE: u32 = 4;

/// A place in the line: the highest priority first, the oldest agent first, the first to come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    priority: Reverse<i32>,
    /// Uids are given out in the order agents are created in.
    uid: u32,
    number: u64,
}

#[derive(Default)]
struct Line {
    next: u64,
    starting: usize,
    waiting: BTreeMap<Place, oneshot::Sender<()>>,
    /// Of late, from permit to ready; none before the first.
    start: Option<Duration>,
    /// As it was written down last.
    written: Option<Duration>,
}

/// The one who lets agents start.
pub(crate) struct Governor {
    width: usize,
    /// Where it is kept how long a start takes, in milliseconds.
    kept: PathBuf,
    line: Mutex<Line>,
}

/// Waiting in the line; leaving it is dropping this.
pub(crate) struct Ticket {
    governor: Arc<Governor>,
    place: Place,
    called: oneshot::Receiver<()>,
}

/// Leave to start.
pub(crate) struct Permit {
    governor: Arc<Governor>,
    since: Instant,
    /// Whether others wait for it still.
    counts: Arc<AtomicBool>,
    overdue: JoinHandle<()>,
}

impl Line {
    /// How many may start at once.
    fn width(&self, governor: &Governor) -> usize {
        let short = self.start.is_some_and(|start| start < SHORT);
        if short { 2 * governor.width } else { governor.width }
    }

    /// Calls as many as may start.
    fn call(&mut self, governor: &Governor) {
        while self.starting < self.width(governor)
            && let Some((_, call)) = self.waiting.pop_first()
        {
            // One who has left has no turn.
            self.starting += usize::from(call.send(()).is_ok());
        }
    }
}

impl Governor {
    /// Lets `width` start at once, and twice as many when a start is short. How long one takes it
    /// knows from before, if that is in `kept`.
    pub(crate) fn new(width: usize, kept: PathBuf) -> Self {
        let before = fs::read_to_string(&kept).ok().and_then(|ms| ms.trim().parse().ok());
        let start = before.map(Duration::from_millis);
        let line = Line { start, written: start, ..Line::default() };
        Self { width, kept, line: Mutex::new(line) }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("no holder panics")
    }

    /// Takes a place in the line.
    pub(crate) fn line_up(self: &Arc<Self>, priority: i32, uid: u32) -> Ticket {
        let mut line = self.line();
        let place = Place { priority: Reverse(priority), uid, number: line.next };
        let (call, called) = oneshot::channel();
        line.next += 1;
        line.waiting.insert(place, call);
        line.call(self);
        Ticket { governor: self.clone(), place, called }
    }

    /// How many are before a place, and about how long it will take, in words.
    pub(crate) fn describe(&self, place: Place) -> String {
        let line = self.line();
        let before = line.waiting.range(..place).count();
        let rounds = u32::try_from(before / line.width(self) + 1).unwrap_or(u32::MAX);
        let about = line.start.map(|start| (start * rounds).as_secs().max(1));
        let about = about.map_or_else(String::new, |s| format!(", about {s} s"));
        format!("waits for its turn to start: {before} before it{about}")
    }

    /// How many may start at once, and how long one took of late; none before the first.
    pub(crate) fn pace(&self) -> (usize, Option<Duration>) {
        let line = self.line();
        (line.width(self), line.start)
    }

    /// Ends what counts as a start, if it counts still.
    fn leave_once(&self, counts: &AtomicBool) {
        if counts.swap(false, Ordering::Relaxed) {
            self.leave();
        }
    }

    fn leave(&self) {
        let mut line = self.line();
        line.starting -= 1;
        line.call(self);
    }
}

impl Ticket {
    /// Its place, for [`Governor::describe`].
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Returns when it may start.
    pub(crate) async fn turn(mut self) -> Permit {
        // The line keeps the sender until it is this one's turn.
        (&mut self.called).await.expect("the line outlives those in it");
        let governor = self.governor.clone();
        let counts = Arc::new(AtomicBool::new(true));
        let overdue = tokio::spawn({
            let (governor, counts) = (governor.clone(), counts.clone());
            let usual = governor.pace().1.unwrap_or_default();
            async move {
                tokio::time::sleep(OVERDUE_MIN.max(usual * OVERDUE)).await;
                governor.leave_once(&counts);
            }
        });
        Permit { governor, since: Instant::now(), counts, overdue }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let waited = self.governor.line().waiting.remove(&self.place).is_some();
        // Called, and gone before it heard.
        if !waited && self.called.try_recv().is_ok() {
            self.governor.leave();
        }
    }
}

impl Permit {
    /// Gives it back, because the agent is ready.
    pub(crate) fn started(self) {
        let took = self.since.elapsed();
        let (start, is_news) = {
            let mut line = self.governor.line();
            // The newest counts for a quarter.
            let start = line.start.map_or(took, |start| (start * 3 + took) / 4);
            line.start = Some(start);
            let is_news = line.written.is_none_or(|it| it.abs_diff(start) > it / 4);
            if is_news {
                line.written = Some(start);
            }
            (start, is_news)
        };
        // What is lost is measured again.
        if is_news && let Err(error) = fs::write(&self.governor.kept, start.as_millis().to_string())
        {
            tracing::debug!(%error, "how long starts take is not kept");
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.overdue.abort();
        self.governor.leave_once(&self.counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn governor(width: usize) -> (Arc<Governor>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Arc::new(Governor::new(width, dir.path().join("start"))), dir)
    }

    #[tokio::test]
    async fn how_long_a_start_takes_is_known_after_a_restart() {
        let (before, dir) = governor(1);
        assert_eq!(before.pace(), (1, None));
        before.line().start = Some(Duration::from_secs(8));
        before.line_up(0, 0).turn().await.started();
        let now = Governor::new(1, dir.path().join("start"));
        let ms = |governor: &Governor| governor.pace().1.map(|start| start.as_millis());
        assert_eq!(ms(&now), ms(&before));
    }

    #[tokio::test]
    async fn the_line_moves_and_says_how_long_it_is() {
        let (governor, _dir) = governor(2);
        let mut permits = Vec::new();
        for uid in 0..2 {
            permits.push(governor.line_up(0, uid).turn().await);
        }
        let tickets: Vec<Ticket> = (2..7).map(|uid| governor.line_up(0, uid)).collect();
        let last = tickets[4].place();
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

    #[tokio::test]
    async fn the_highest_priority_then_the_oldest_is_called_first() {
        let (governor, _dir) = governor(1);
        let permit = governor.line_up(0, 9).turn().await;
        let late = governor.line_up(0, 8);
        let old = governor.line_up(0, 7);
        let low = governor.line_up(-1, 1);
        let high = governor.line_up(5, 20);
        drop(permit);
        let permit = high.turn().await;
        drop(permit);
        let permit = old.turn().await;
        drop(permit);
        // Called, and dropped before it started: the next one is called all the same.
        drop(late);
        low.turn().await.started();
        assert_eq!(governor.line().starting, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_for_a_start_that_does_not_end() {
        let (governor, _dir) = governor(1);
        let never_ready = governor.line_up(9, 0).turn().await;
        // Time passes while nobody has anything to do.
        let next = governor.line_up(0, 1).turn().await;
        assert_eq!(governor.line().starting, 1);
        drop(never_ready);
        assert_eq!(governor.line().starting, 1);
        drop(next);
        assert_eq!(governor.line().starting, 0);
    }

    #[tokio::test]
    async fn short_starts_overlap_and_long_ones_do_not() {
        let (governor, _dir) = governor(1);
        governor.line_up(0, 0).turn().await.started();
        assert_eq!(governor.pace().0, 2);
        let _both = (governor.line_up(0, 1).turn().await, governor.line_up(0, 2).turn().await);
        governor.line().start = Some(SHORT);
        assert_eq!(governor.pace().0, 1);
    }
}
