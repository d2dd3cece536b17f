//! What a daemon makes of the processes that init knows from before it.

use std::collections::BTreeMap;

use fleet_process::Child;
use fleet_proto::host::Assignment;
use fleet_types::AgentId;

use crate::start_key::StartKey;

/// A process that init knows.
pub(crate) trait Found {
    /// Whether it ran when the daemon asked.
    fn runs(&self) -> bool;
}

impl Found for Child {
    fn runs(&self) -> bool {
        self.was_running()
    }
}

/// What was found, by what becomes of it.
pub(crate) struct Adoption<F> {
    /// Of each agent that was told the start that runs, or the last.
    pub(crate) adopted: BTreeMap<AgentId, (StartKey, F)>,
    /// Agents with processes beside those: all that runs of them is ended.
    pub(crate) strays: Vec<AgentId>,
    /// What has ended and is of no use: init need not know it any more. It must not: a later
    /// daemon would take it for what its agent became.
    pub(crate) over: Vec<F>,
}

/// Sorts what was `found`.
pub(crate) fn sort<F: Found>(
    found: impl IntoIterator<Item = (StartKey, F)>,
    told: &BTreeMap<AgentId, Assignment>,
) -> Adoption<F> {
    let is_told = |(key, _): &(StartKey, F)| told.get(&key.agent).is_some_and(|it| key.is_of(it));
    let (mut wanted, mut unused): (Vec<_>, Vec<_>) = found.into_iter().partition(is_told);
    // The last of each agent is adopted.
    wanted.sort_by_key(|(key, process)| (process.runs(), key.start));
    let mut adopted = BTreeMap::new();
    for (key, process) in wanted {
        unused.extend(adopted.insert(key.agent.clone(), (key, process)));
    }
    let (running, ended): (Vec<_>, Vec<_>) =
        unused.into_iter().partition(|(_, process)| process.runs());
    let strays = running.into_iter().map(|(key, _)| key.agent).collect();
    let over = ended.into_iter().map(|(_, process)| process).collect();
    Adoption { adopted, strays, over }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Process(u32, bool);

    impl Found for Process {
        fn runs(&self) -> bool {
            self.1
        }
    }

    fn of(agent: &str, generation: u64, start: u32) -> StartKey {
        let agent = agent.parse().unwrap();
        StartKey { agent, generation, restarts: 0, start, salt: 0, uid: 7 }
    }

    #[test]
    fn what_runs_is_adopted_and_what_ended_is_forgotten() {
        let agents = ["f/a", "f/b", "f/c"].map(|name| name.parse::<AgentId>().unwrap());
        let told = agents[..2].iter().map(|id| {
            let (fleet, agent) = (id.fleet.to_string(), id.agent.to_string());
            (id.clone(), Assignment { fleet, agent, generation: 2, uid: 7, ..Default::default() })
        });
        let found = [
            // Started under a count that had begun anew.
            (of("f/a", 2, 1), Process(1, true)),
            (of("f/a", 2, 5), Process(2, false)),
            (of("f/a", 1, 9), Process(3, false)),
            (of("f/b", 2, 1), Process(4, false)),
            (of("f/b", 2, 2), Process(5, false)),
            (of("f/c", 1, 1), Process(6, true)),
            (of("f/c", 1, 2), Process(7, false)),
        ];
        let sorted = sort(found, &told.collect());
        let adopted: Vec<u32> = sorted.adopted.values().map(|(_, process)| process.0).collect();
        assert_eq!(adopted, [1, 5]);
        assert_eq!(sorted.strays, agents[2..]);
        let over: BTreeSet<u32> = sorted.over.iter().map(|process| process.0).collect();
        assert_eq!(over, BTreeSet::from([2, 3, 4, 7]));
    }
}
