//! Replicas that applied the same entries hold the same state, whether they applied them one by
//! one or came to them by a snapshot.

use fleet_core::State;

use crate::invariants::Broken;

pub(crate) fn check(index: u64, one: &State, other: &State) -> Result<(), Broken> {
    if one.digest() == other.digest() {
        return Ok(());
    }
    Err(Broken { promise: "replicas agree", seen: format!("states differ at index {index}") })
}
