//! Who executed when, by the agents' own account. Shares no code with what is tested: each copy of
//! `fleet-stamp` writes its first and last moment to a file, on one kernel with one clock.

use std::{fmt, fs, path::Path};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
    u64::try_from(now.tv_sec()).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap()
}

/// One process of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The agent.
    pub agent: String,
    /// Which placement it belongs to.
    pub generation: u64,
    /// When it first executed, in nanoseconds of `CLOCK_BOOTTIME`.
    pub first_ns: u64,
    /// When it last did.
    pub last_ns: u64,
}

/// Two processes of one agent that executed at the same time.
#[derive(Clone, Debug)]
pub struct Overlap {
    /// The one that began first.
    pub earlier: Run,
    /// The one that began before that had ended.
    pub later: Run,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { earlier, later } = self;
        let ms = (earlier.last_ns - later.first_ns) / 1_000_000;
        write!(
            f,
            "{}: generation {} executed for {ms} ms after generation {} had begun",
            later.agent, earlier.generation, later.generation
        )
    }
}

/// Every process that stamped in `directory`, by agent and beginning.
pub fn runs(directory: &Path) -> Vec<Run> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut parts = name.split('.');
        let (agent, generation) = (parts.next().unwrap(), parts.next().unwrap());
        let stamps = fs::read(&path).unwrap();
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        // One that was killed before its first word executed nothing else.
        let (Some(first), Some(last)) = (stamps.get(..8), stamps.get(8..16)) else { continue };
        let (first_ns, last_ns) = (number(first), number(last));
        if first_ns > 0 {
            runs.push(Run {
                agent: agent.to_owned(),
                generation: generation.parse().unwrap(),
                first_ns,
                last_ns: last_ns.max(first_ns),
            });
        }
    }
    runs.sort_by(|a, b| (&a.agent, a.first_ns).cmp(&(&b.agent, b.first_ns)));
    runs
}

/// Every pair of them that should not be.
pub fn overlaps(runs: &[Run]) -> Vec<Overlap> {
    let mut overlaps = Vec::new();
    let mut longest: Option<&Run> = None;
    for run in runs {
        match longest.filter(|earlier| earlier.agent == run.agent) {
            Some(earlier) if earlier.last_ns >= run.first_ns => {
                overlaps.push(Overlap { earlier: earlier.clone(), later: run.clone() });
                if run.last_ns > earlier.last_ns {
                    longest = Some(run);
                }
            }
            _ => longest = Some(run),
        }
    }
    overlaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(agent: &str, generation: u64, first_ns: u64, last_ns: u64) -> Run {
        Run { agent: agent.into(), generation, first_ns, last_ns }
    }

    #[test]
    fn only_copies_of_one_agent_overlap() {
        let apart = [run("a", 1, 10, 20), run("a", 2, 21, 30), run("b", 1, 15, 25)];
        assert!(overlaps(&apart).is_empty());
        let at_once = [run("a", 1, 10, 50), run("a", 1, 20, 30), run("a", 2, 40, 60)];
        let found = overlaps(&at_once);
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].earlier.last_ns, found[1].later.generation), (50, 2));
    }
}
