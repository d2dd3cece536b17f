//! Deletes a fleet that has no agents.

use fleet_types::Revision;

use crate::{Outcome, Rejection, State, command::DeleteFleet};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    op: &DeleteFleet,
) -> Result<Outcome, Rejection> {
    if !state.fleets().contains_key(&op.fleet) {
        return Err(Rejection::FleetUnknown(op.fleet.clone()));
    }
    if state.fleet_agents(&op.fleet).next().is_some() {
        return Err(Rejection::FleetNotEmpty(op.fleet.clone()));
    }
    state.remove_fleet(&op.fleet);
    Ok(Outcome::Done(revision))
}
