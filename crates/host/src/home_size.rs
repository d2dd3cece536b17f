//! When to look at what a HOME takes up. Not every file system can be told to keep it small, and a
//! look takes the longer the more files there are: so one is due once the disk that HOMEs are on
//! has taken half of what is left to this one, whoever took it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_process::{disk_usage, disk_used};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::{sleep_until, timeout_at},
};

/// Pause between looks at the disk.
const LOOK: Duration = Duration::from_secs(1);
/// So much more has to be used before it is told, in bytes: each agent's task is told of it.
const STEP: u64 = 16 << 20;
/// Pauses between looks at a HOME to which less than two such steps are left; the shorter when it is
/// more than half full.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_FULL: Duration = Duration::from_secs(1);
/// Pauses before the first look at any other HOME, and between others, at most: it may grow while as
/// much is freed elsewhere. A quarter of it more or less, lest all are looked at in one moment.
const PAUSE_FIRST: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Looking may take one part in so many of the time, where that makes no longer pauses than the
/// longest.
const SHARE: u32 = 20;
const SHARE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How many HOMEs are looked at at once: what prepares starts has the other threads.
const AT_ONCE: usize = 2;

/// How much more of their disk is used since this daemon began: what is freed does not count.
#[derive(Clone)]
pub(crate) struct DiskGrowth {
    growth: watch::Receiver<u64>,
    looks: Arc<Semaphore>,
}

impl DiskGrowth {
    /// Looks at the disk of `path` from now on.
    pub(crate) fn start(path: &'static Path) -> Self {
        let (told, growth) = watch::channel(0);
        tokio::spawn(async move {
            let (mut used, mut grown) = (u64::MAX, 0);
            while !told.is_closed() {
                tokio::time::sleep(LOOK).await;
                // A file system that hangs keeps one thread and no agent.
                let Ok(now) = spawn_blocking(move || disk_used(path)).await else { return };
                let Some(now) = now else { continue };
                grown += now.saturating_sub(used);
                used = now;
                if grown - *told.borrow() >= STEP {
                    told.send_replace(grown);
                }
            }
        });
        Self { growth, looks: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    fn now(&self) -> u64 {
        *self.growth.borrow()
    }

    /// Waits until it has grown to so many bytes.
    async fn reached(&mut self, bytes: u64) {
        if self.growth.wait_for(|now| *now >= bytes).await.is_err() {
            std::future::pending().await
        }
    }
}

/// What a HOME takes up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HomeSize {
    /// In bytes; none when some files lie too deep to be counted.
    pub(crate) bytes: Option<u64>,
    /// Whether anyone looked.
    is_known: bool,
    /// When the look began, and how long it took.
    began: Instant,
    took: Duration,
    /// How much the disk had grown then.
    growth: u64,
}

impl HomeSize {
    /// That of one nobody looked at yet.
    pub(crate) fn unknown(disk: &DiskGrowth) -> Self {
        let (began, growth) = (Instant::now(), disk.now());
        Self { bytes: Some(0), is_known: false, began, took: Duration::ZERO, growth }
    }
}

/// When the next look is due, from when the last began.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    soonest: Duration,
    /// Once the disk has taken so much more, in bytes.
    growth: u64,
    latest: Duration,
}

impl Due {
    /// Of a HOME that may take up `most` bytes.
    fn of(most: u64, last: &HomeSize) -> Self {
        let bytes = last.bytes.unwrap_or(0);
        let growth = most.saturating_sub(bytes) / 2;
        let soonest = PAUSE_FULL.max(SHARE_PAUSE_MAX.min(last.took * SHARE));
        let latest = match growth {
            0..STEP if bytes > most / 2 => PAUSE_FULL,
            0..STEP => PAUSE,
            _ if !last.is_known => PAUSE_FIRST,
            _ => PAUSE_MAX,
        };
        Self { soonest, growth, latest: latest.max(soonest) }
    }
}

/// Waits until a look at `home` is due, and looks.
pub(crate) async fn next(
    mut disk: DiskGrowth,
    home: PathBuf,
    most: u64,
    last: HomeSize,
) -> HomeSize {
    let Due { soonest, growth, latest } = Due::of(most, &last);
    let latest =
        if latest > PAUSE { latest.mul_f64(rand::random_range(0.75..1.25)) } else { latest };
    sleep_until((last.began + soonest).into()).await;
    let _ = timeout_at((last.began + latest).into(), disk.reached(last.growth + growth)).await;
    // Kept by the look, which goes on when nobody waits for it any more.
    let permit = disk.looks.clone().acquire_owned().await;
    let (began, growth) = (Instant::now(), disk.now());
    let look = move || {
        let bytes = disk_usage(&home);
        drop(permit);
        HomeSize { bytes, is_known: true, began, took: began.elapsed(), growth }
    };
    spawn_blocking(look).await.unwrap_or(HomeSize { began, growth, ..last })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn size(bytes: u64, took_ms: u64) -> HomeSize {
        let took = Duration::from_millis(took_ms);
        HomeSize { bytes: Some(bytes), is_known: true, began: Instant::now(), took, growth: 0 }
    }

    #[test]
    fn a_large_home_is_looked_at_as_its_disk_fills() {
        let due = |growth, soonest_s, latest_s| Due {
            soonest: Duration::from_secs(soonest_s),
            growth,
            latest: Duration::from_secs(latest_s),
        };
        let unknown = HomeSize { is_known: false, ..size(0, 0) };
        let of = |last| Due::of(16 * GIB, &last);
        assert_eq!(of(unknown), due(8 * GIB, 1, 60));
        assert_eq!(of(size(GIB, 2)), due(15 * GIB / 2, 1, 300));
        assert_eq!(of(size(15 * GIB, 500)), due(GIB / 2, 10, 300));
        assert_eq!(of(size(16 * GIB, 2)), due(0, 1, 1));
        assert_eq!(of(size(17 * GIB, 30_000)), due(0, 60, 60));
    }

    #[test]
    fn a_small_home_is_looked_at_every_ten_seconds_and_every_second_when_half_full() {
        let most = 20 << 20;
        let latest = |mib: u64| Due::of(most, &size(mib << 20, 0)).latest;
        assert_eq!((latest(0), latest(10), latest(11)), (PAUSE, PAUSE, PAUSE_FULL));
    }

    /// An agent that ends and is started again goes on from the last look, however long it runs.
    #[tokio::test]
    async fn what_is_due_is_looked_at_at_once() {
        let home = tempfile::tempdir().unwrap();
        let (told, growth) = watch::channel(0);
        let disk = DiskGrowth { growth, looks: Arc::new(Semaphore::new(1)) };
        let last = HomeSize { began: Instant::now() - PAUSE_FULL, ..HomeSize::unknown(&disk) };
        told.send_replace(GIB / 2);
        let next = next(disk, home.path().into(), GIB, last);
        let looked = tokio::time::timeout(Duration::from_secs(20), next).await.unwrap();
        assert!(looked.is_known && looked.growth == GIB / 2);
    }
}
