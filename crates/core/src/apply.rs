//! Applying one command: the dispatch, and the memory of requests.

use fleet_types::{Epoch, FleetName, NodeId, Revision};

use crate::{
    command::{Admission, AgentDraft, Command, CreateAgents, Operation, RULES, RegisterNode},
    commands,
    record::{Agent, Role, Wants},
    rejection::Rejection,
    state::State,
};

/// What an applied command made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The records named in the command changed at this revision.
    Done(Revision),
    /// The request was carried out before, at this revision; nothing changed now.
    Repeated(Revision),
    /// A node was admitted.
    NodeAdmitted {
        /// Its number.
        node: NodeId,
        /// Its role.
        role: Role,
    },
    /// A node was granted a lease.
    NodeRegistered {
        /// The epoch of the lease.
        epoch: Epoch,
    },
}

/// Applies the command at log index `index`, by the newest [`RULES`]. Either all of it happens, or
/// nothing does.
///
/// # Errors
/// A [`Rejection`] when the state does not allow it. The state is then unchanged.
pub fn apply(state: &mut State, index: u64, command: &Command) -> Result<Outcome, Rejection> {
    apply_by(RULES, state, index, command)
}

/// As [`apply`], by these rules, up to [`RULES`].
///
/// # Errors
/// As [`apply`].
pub fn apply_by(
    rules: u32,
    state: &mut State,
    index: u64,
    command: &Command,
) -> Result<Outcome, Rejection> {
    let revision = Revision(index);
    if let Some(request) = &command.request
        && let Some(known) = state.requests().get(&request.id)
    {
        return if known.fingerprint == request.fingerprint {
            Ok(Outcome::Repeated(known.revision))
        } else {
            Err(Rejection::RequestIdReused)
        };
    }
    let outcome = dispatch(rules, state, revision, command)?;
    state.catch_up();
    if let Some(request) = &command.request {
        state.remember(request.id.clone(), request.fingerprint, revision);
    }
    Ok(outcome)
}

/// Whether a node is one of the cluster, with the data directory it joined with; changes nothing.
///
/// # Errors
/// The [`Rejection`] that registering it would end in.
pub fn check_register(state: &State, op: &RegisterNode) -> Result<(), Rejection> {
    commands::register_node::check(state, op)
}

/// Whether saying that something else listens on an agent's ports would change anything.
pub fn is_helped_by_other_ports(state: &State, agent: &Agent) -> bool {
    commands::quarantine_ports::helps(state, agent)
}

/// Whether a node tells something new by saying that an agent is parked, as it is since a revision.
pub fn is_parked_anew(state: &State, agent: &Agent, node: NodeId, since: Revision) -> bool {
    commands::report_parked::is_news(state, agent, node, since)
}

/// Whether agents could want this.
///
/// # Errors
/// The [`Rejection`] that making a fleet that wants it would end in.
pub fn check_wants(wants: &Wants) -> Result<(), Rejection> {
    commands::create_agents::check_wants(wants)
}

/// Whether agents could be made now; changes nothing.
///
/// # Errors
/// The [`Rejection`] that making them would end in.
pub fn check_create(state: &State, op: &CreateAgents) -> Result<(), Rejection> {
    commands::create_agents::check_all(state, op)
}

/// Whether agents of some fleets, which need not exist yet, could be made now, one call after the
/// other; changes nothing.
///
/// # Errors
/// The [`Rejection`] that making them would end in.
pub fn check_drafts<'a>(
    state: &State,
    fleets: impl Iterator<Item = (&'a FleetName, &'a [AgentDraft])> + Clone,
    admission: Admission,
) -> Result<(), Rejection> {
    commands::create_agents::check_drafts(state, fleets, admission)
}

fn dispatch(
    rules: u32,
    state: &mut State,
    revision: Revision,
    command: &Command,
) -> Result<Outcome, Rejection> {
    let at = command.at;
    match &command.operation {
        Operation::InitCluster(op) => commands::init_cluster::apply(state, revision, at, op),
        Operation::CreateToken(op) => commands::create_token::apply(state, revision, at, op),
        Operation::RevokeToken(op) => commands::revoke_token::apply(state, revision, op),
        Operation::AdmitNode(op) => commands::admit_node::apply(state, revision, at, op),
        Operation::RegisterNode(op) => commands::register_node::apply(state, revision, at, op),
        Operation::FenceNode(op) => commands::fence_node::apply(state, revision, at, op),
        Operation::SetSchedulable(op) => commands::set_schedulable::apply(state, revision, at, op),
        Operation::HoldNode(op) => commands::hold_node::apply(state, revision, at, op),
        Operation::SetMovePolicy(op) => commands::set_move_policy::apply(state, revision, op),
        Operation::RemoveNode(op) => commands::remove_node::apply(rules, state, revision, at, op),
        Operation::CreateFleet(op) => commands::create_fleet::apply(state, revision, at, op),
        Operation::DeleteFleet(op) => commands::delete_fleet::apply(state, revision, op),
        Operation::CreateAgents(op) => {
            commands::create_agents::apply(rules, state, revision, at, op)
        }
        Operation::SetAgentDesired(op) => commands::set_agent_desired::apply(state, revision, op),
        Operation::RestartAgent(op) => commands::restart_agent::apply(state, revision, op),
        Operation::DeleteAgent(op) => commands::delete_agent::apply(state, revision, at, op),
        Operation::PlaceAgents(op) => commands::place_agents::apply(state, revision, at, op),
        Operation::ConfirmStopped(op) => commands::confirm_stopped::apply(state, revision, at, op),
        Operation::EvictAgents(op) => commands::evict_agents::apply(state, revision, at, op),
        Operation::QuarantinePorts(op) => {
            commands::quarantine_ports::apply(state, revision, at, op)
        }
        Operation::ReleasePorts(op) => commands::release_ports::apply(state, revision, at, op),
        Operation::ReportDoubleRun(op) => {
            commands::report_double_run::apply(state, revision, at, op)
        }
        Operation::ReportParked(op) => commands::report_parked::apply(state, revision, at, op),
        Operation::SetPlacementPolicy(op) => {
            commands::set_placement_policy::apply(state, revision, op)
        }
        Operation::SetRole(op) => commands::set_role::apply(state, revision, at, op),
    }
}
