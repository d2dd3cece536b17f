//! Makes a fleet.

use fleet_types::{
    Revision, Timestamp,
    limits::{CONFIG_BYTES_MAX, FLEETS_MAX},
};

use crate::{Outcome, Rejection, State, command::CreateFleet, record::Fleet};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &CreateFleet,
) -> Result<Outcome, Rejection> {
    if state.fleets().contains_key(&op.fleet) {
        return Err(Rejection::FleetExists(op.fleet.clone()));
    }
    if state.fleets().len() >= FLEETS_MAX {
        return Err(Rejection::LimitReached { what: "fleets", limit: FLEETS_MAX });
    }
    if op.config.len() > CONFIG_BYTES_MAX {
        return Err(Rejection::LimitReached { what: "bytes of config", limit: CONFIG_BYTES_MAX });
    }
    super::create_agents::check_wants(&op.wants)?;
    if op.ports > 0 {
        super::create_agents::check_block(op.ports)?;
    }
    state.put_fleet(Fleet {
        name: op.fleet.clone(),
        config: op.config.clone(),
        labels: op.labels.clone(),
        wants: op.wants.clone(),
        ports: op.ports,
        priority: op.priority,
        created: at,
        revision,
    });
    Ok(Outcome::Done(revision))
}
