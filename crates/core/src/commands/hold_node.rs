//! Gives a node long leases for a time in which its daemon may be away, and takes them back. Until
//! the last of them is over the node is fenced as late as they last; so a hold ends in two steps,
//! and the second is the leader's to see.

use fleet_types::{Revision, Timestamp, limits};

use crate::{
    Outcome, Rejection, State,
    command::{HoldChange, HoldNode},
    event::What,
    record::{Hold, NodeStatus},
    state::Moment,
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &HoldNode,
) -> Result<Outcome, Rejection> {
    let mut node = state.require_node(op.node)?.clone();
    node.hold = match (op.change, node.hold) {
        (HoldChange::Set { lease_ms }, old) => {
            if !limits::HOLD_MS.contains(&lease_ms) {
                return Err(Rejection::HoldLength(lease_ms));
            }
            if node.status != NodeStatus::Active {
                return Err(Rejection::NodeNotActive(op.node));
            }
            // Longer ones of an earlier hold may be under way.
            let lease_ms = old.map_or(lease_ms, |old| old.lease_ms.max(lease_ms));
            Some(Hold { lease_ms, since: revision, ending: false })
        }
        (_, None) => return Err(Rejection::NotHeld(op.node)),
        (HoldChange::Release, Some(hold)) => Some(Hold { ending: true, ..hold }),
        (HoldChange::End { since }, Some(hold)) => {
            if hold.since != since || !hold.ending {
                return Err(Rejection::StaleHold(op.node));
            }
            None
        }
    };
    node.revision = revision;
    let what = match node.hold {
        Some(Hold { ending: true, .. }) => None,
        Some(Hold { lease_ms, .. }) => Some(What::NodeHeld { lease_ms }),
        None => Some(What::HoldEnded),
    };
    state.put_node(node);
    if let Some(what) = what {
        state.tell(Moment { at, revision }, Some(op.node), None, what);
    }
    Ok(Outcome::Done(revision))
}
