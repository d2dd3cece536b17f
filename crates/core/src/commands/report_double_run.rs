//! Keeps for good that an agent says that another copy of its session is live: whoever looks for
//! the other copy needs to know where this one ran, and where the one before it.

use fleet_types::{Revision, Timestamp};

use crate::{Outcome, Rejection, State, command::ReportDoubleRun, event::What, state::Moment};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &ReportDoubleRun,
) -> Result<Outcome, Rejection> {
    state.require_epoch(op.node, op.epoch)?;
    let agent = state.require_agent(&op.agent)?;
    let here = agent.placement.as_ref().is_some_and(|placement| placement.node == op.node);
    if !here || agent.generation != op.generation {
        let current = agent.generation;
        return Err(Rejection::StaleGeneration { agent: op.agent.clone(), current });
    }
    if !state.told_of_double_run(&op.agent, op.generation, op.start) {
        let (generation, start, former) = (op.generation, op.start, agent.former);
        let what = What::AgentRunsTwice { generation, start, former, line: op.line.clone() };
        let now = Moment { at, revision };
        state.tell(now, Some(op.node), Some(op.agent.clone()), what);
    }
    Ok(Outcome::Done(revision))
}
