//! Lets agents have ports again that nothing on the node uses any more.

use fleet_types::Revision;

use crate::{Outcome, Rejection, State, command::ReleasePorts};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    op: &ReleasePorts,
) -> Result<Outcome, Rejection> {
    let node = state.require_node(op.node)?;
    if node.epoch != op.epoch {
        return Err(Rejection::StaleEpoch { node: op.node, current: node.epoch });
    }
    for block in &op.blocks {
        state.release_block(op.node, *block);
    }
    Ok(Outcome::Done(revision))
}
