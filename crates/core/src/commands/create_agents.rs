//! Makes any number of agents and places them, in one entry. One that has no room waits as
//! pending, with the reason.

use alloc::{collections::BTreeSet, format, sync::Arc};

use fleet_types::{
    AgentId, FleetName, Generation, Revision, Timestamp,
    limits::{AGENTS_MAX, AGENTS_PER_CALL_MAX, CONFIG_BYTES_MAX, PORT_BLOCK_MAX},
};

use crate::{
    Outcome, Rejection, State, admission,
    command::{Admission, AgentDraft, CreateAgents, RULES_OF_FIRST_PLACEMENTS},
    record::{Agent, Evidence, Lifecycle, Wants},
    state::Moment,
};

pub(crate) fn apply(
    rules: u32,
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &CreateAgents,
) -> Result<Outcome, Rejection> {
    check_all(state, op)?;
    let mut cluster = state.cluster().ok_or(Rejection::NoCluster)?.clone();
    let told = rules >= RULES_OF_FIRST_PLACEMENTS;
    for draft in &op.agents {
        let id = AgentId { fleet: op.fleet.clone(), agent: draft.name.clone() };
        let agent = Agent {
            id,
            spec: Arc::new(draft.spec.clone()),
            desired: draft.desired,
            lifecycle: Lifecycle::Live,
            restarts: 0,
            uid: cluster.next_uid,
            generation: Generation(0),
            placement: None,
            pending: None,
            evidence: Evidence::First,
            former: None,
            created: at,
            revision,
        };
        cluster.next_uid += 1;
        state.add_agent(agent, draft.node, told, Moment { at, revision });
    }
    cluster.revision = revision;
    state.put_cluster(cluster);
    Ok(Outcome::Done(revision))
}

/// Everything that can refuse the command.
pub(crate) fn check_all(state: &State, op: &CreateAgents) -> Result<(), Rejection> {
    if !state.fleets().contains_key(&op.fleet) {
        return Err(Rejection::FleetUnknown(op.fleet.clone()));
    }
    if op.agents.is_empty() {
        return Err(Rejection::NoAgents);
    }
    if op.agents.len() > AGENTS_PER_CALL_MAX {
        return Err(Rejection::LimitReached { what: "agents a call", limit: AGENTS_PER_CALL_MAX });
    }
    check_drafts(state, core::iter::once((&op.fleet, op.agents.as_slice())), op.admission)
}

/// Everything that can refuse agents of some fleets together, but how many a call names.
pub(crate) fn check_drafts<'a>(
    state: &State,
    fleets: impl Iterator<Item = (&'a FleetName, &'a [AgentDraft])> + Clone,
    admission: Admission,
) -> Result<(), Rejection> {
    let drafts = fleets.clone().flat_map(|(_, drafts)| drafts);
    if state.agents().len() + drafts.clone().count() > AGENTS_MAX {
        return Err(Rejection::LimitReached { what: "agents", limit: AGENTS_MAX });
    }
    let mut names = BTreeSet::new();
    for (fleet, drafts) in fleets {
        for draft in drafts {
            check(draft)?;
            let id = AgentId { fleet: fleet.clone(), agent: draft.name.clone() };
            if state.agents().contains_key(&id) || !names.insert((fleet, &draft.name)) {
                return Err(Rejection::AgentExists(id));
            }
        }
    }
    admission::check(state, drafts, admission)
}

fn check(draft: &AgentDraft) -> Result<(), Rejection> {
    check_block(draft.spec.ports)?;
    if draft.spec.config.len() > CONFIG_BYTES_MAX {
        return Err(Rejection::LimitReached { what: "bytes of config", limit: CONFIG_BYTES_MAX });
    }
    draft.spec.limits.check().map_err(Rejection::Limits)?;
    check_wants(&draft.spec.wants)?;
    let (requests, limits) = (draft.spec.wants.requests, &draft.spec.limits);
    for (field, asked, most) in [
        ("memory_bytes", requests.memory_bytes, limits.memory_bytes),
        ("cpu_millis", requests.cpu_millis, limits.cpu_millis.into()),
    ] {
        if most > 0 && asked > most {
            return Err(Rejection::Contradiction(format!(
                "agent {} asks for {asked} {field} and may use {most}: lower its requests, which \
                 are its fleet's or its runtime's where it states none, or raise its limits",
                draft.name
            )));
        }
    }
    Ok(())
}

/// Refuses what is no size of a block of ports.
pub(crate) fn check_block(ports: u16) -> Result<(), Rejection> {
    let possible = ports.is_power_of_two() && ports <= PORT_BLOCK_MAX;
    if possible { Ok(()) } else { Err(Rejection::BlockSize(ports)) }
}

/// Refuses what no node can satisfy because it contradicts itself.
pub(crate) fn check_wants(wants: &Wants) -> Result<(), Rejection> {
    wants.requests.check().map_err(Rejection::Limits)?;
    if wants.spread_by.as_ref().is_some_and(|key| wants.node_labels.get(key).is_some()) {
        let why = "agents are spread by a label of which they ask for one value";
        return Err(Rejection::Contradiction(why.into()));
    }
    Ok(())
}
