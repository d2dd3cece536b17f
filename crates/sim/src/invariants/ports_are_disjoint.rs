//! No two agents on one machine own a port in common. Checked on the records and, through the
//! audit, on everything else a state must hold.

use fleet_core::{State, audit};

use crate::invariants::Broken;

pub(crate) fn check(state: &State) -> Result<(), Broken> {
    match audit(state).first() {
        None => Ok(()),
        Some(violation) => Err(Broken {
            promise: "ports are disjoint and records sound",
            seen: format!("{}: {}", violation.rule, violation.detail),
        }),
    }
}
