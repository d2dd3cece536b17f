//! How the agents are. They are looked at a page at a time, for applying waits while the state is
//! read: the counts of a cluster that changes meanwhile are of no one moment.

use std::{collections::BTreeMap, ops::Bound};

use fleet_core::State;
use fleet_proto::v1::Problem;
use fleet_types::AgentId;
use tonic::Status;

use super::{Api, problems};
use crate::leader::Observed;

/// Agents looked at before others may go on: less than a millisecond.
const PAGE: usize = 500;
/// Agents named one by one; the rest is counted.
const NAMED_MAX: usize = 5;

/// What was found.
#[derive(Default)]
pub(super) struct Census {
    /// How many agents are in each state.
    pub(super) by_state: BTreeMap<String, u32>,
    /// What is wrong with agents.
    pub(super) problems: Vec<Problem>,
    more: usize,
}

impl Census {
    /// Looks at the agents after one; answers the last, or none when no more follow.
    fn page(
        &mut self,
        state: &State,
        observed: &Observed,
        after: Bound<AgentId>,
    ) -> Option<AgentId> {
        let (mut seen, mut last) = (0, None);
        for (id, agent) in state.agents().range((after, Bound::Unbounded)).take(PAGE) {
            let name = observed.state(agent).as_str_name();
            match self.by_state.get_mut(name) {
                Some(count) => *count += 1,
                None => drop(self.by_state.insert(name.to_owned(), 1)),
            }
            match problems::of_agent(state, observed, agent) {
                Some(problem) if self.problems.len() < NAMED_MAX => self.problems.push(problem),
                Some(_) => self.more += 1,
                None => {}
            }
            (seen, last) = (seen + 1, Some(id));
        }
        last.filter(|_| seen == PAGE).cloned()
    }
}

/// Counts page after page; `next` counts the one after an agent, and answers its last.
fn take(next: impl Fn(&mut Census, Bound<AgentId>) -> Option<AgentId>) -> Census {
    let (mut census, mut after) = (Census::default(), Bound::Unbounded);
    while let Some(last) = next(&mut census, after) {
        after = Bound::Excluded(last);
    }
    if census.more > 0 {
        census.problems.push(problems::of_more(census.more));
    }
    census
}

impl Api {
    /// Looks at all agents, on a thread that nothing else waits for.
    pub(super) async fn census(&self) -> Result<Census, Status> {
        let (raft, observed) = (self.raft.clone(), self.observed.clone());
        let next = move |census: &mut Census, after| {
            raft.read(|state| census.page(state, &observed, after))
        };
        let census = tokio::task::spawn_blocking(move || take(next)).await;
        census.map_err(|_| Status::unavailable("the node is stopping"))
    }
}

#[cfg(test)]
mod tests {
    use fleet_core::Record;
    use fleet_proto::v1::agent::State as AgentState;

    use super::*;
    use crate::testing::agent;

    #[test]
    fn every_agent_is_counted_once() {
        for agents in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE] {
            let state = State::restore((0..agents).map(agent).map(Box::new).map(Record::Agent));
            let observed = Observed::default();
            let census = take(|census, after| census.page(&state, &observed, after));
            let counted = census.by_state.get(AgentState::Pending.as_str_name());
            assert_eq!(counted.map_or(0, |count| *count as usize), agents);
            let named = agents.min(NAMED_MAX);
            assert_eq!(census.problems.len(), named + usize::from(agents > NAMED_MAX));
            assert_eq!(census.more, agents - named);
        }
    }
}
