//! Lets agents have ports again that nothing on the node uses any more.

use fleet_types::{Revision, Timestamp};

use crate::{
    Outcome, Rejection, State, command::ReleasePorts, event::What, record::QuarantineCause,
    state::Moment,
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &ReleasePorts,
) -> Result<Outcome, Rejection> {
    state.require_epoch(op.node, op.epoch)?;
    for block in &op.blocks {
        let cause = state.release_block(op.node, *block);
        if matches!(cause, Some(QuarantineCause::Foreign(_))) {
            let what = What::PortsReleased { block: *block };
            state.tell(Moment { at, revision }, Some(op.node), None, what);
        }
    }
    Ok(Outcome::Done(revision))
}
