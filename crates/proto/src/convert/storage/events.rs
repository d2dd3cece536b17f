//! Events.

use fleet_core::{Event, What};
use fleet_types::{AgentId, Epoch, Generation, Revision, Timestamp};

use super::{records::*, *};
use crate::storage as wire;

pub(super) fn put_event(e: &Event) -> wire::EventRecord {
    use wire::event_record::What as Wire;
    let what = match &e.what {
        What::AgentPlaced { generation, evidence } => Wire::AgentPlaced(wire::AgentPlaced {
            generation: generation.0,
            evidence: Some(put_evidence(evidence)),
        }),
        What::AgentPending { reason } => Wire::AgentPending(put_pending(*reason)),
        What::AgentEvicted { cause } => Wire::AgentEvicted(put_cause(*cause)),
        What::AgentKept => Wire::AgentKept(true),
        What::AgentDeleted => Wire::AgentDeleted(true),
        What::NodeAdmitted { role } => Wire::NodeAdmitted(put_role(*role)),
        What::NodeRegistered { epoch } => Wire::NodeRegistered(epoch.0),
        What::NodeFenced { evidence, agents } => Wire::NodeFenced(wire::NodeFenced {
            evidence: Some(put_evidence(evidence)),
            agents: *agents,
        }),
        What::NodeScheduling { schedulable } => Wire::NodeScheduling(put_schedulable(*schedulable)),
        What::NodeRemoved { name } => Wire::NodeGone(name.clone()),
        What::RoleChanged { role, cause } => Wire::RoleChanged(wire::RoleChanged {
            role: put_role(*role),
            cause: put_role_cause(*cause),
            automatic: *cause != fleet_core::RoleCause::Operator,
        }),
        What::NodeHeld { lease_ms } => Wire::NodeHeld(*lease_ms),
        What::HoldEnded => Wire::HoldEnded(true),
        What::AgentRunsTwice { generation, start, former, line } => {
            let (node, former) = former.map_or((0, 0), |(node, of)| (node.0, of.0));
            Wire::AgentRunsTwice(wire::AgentRunsTwice {
                generation: generation.0,
                start: *start,
                former_node: node,
                former_generation: former,
                line: line.clone(),
            })
        }
        What::AgentParked { start, why } => {
            Wire::AgentParked(wire::AgentParked { start: *start, why: why.clone() })
        }
        What::PortsQuarantined { block, by } => Wire::PortsQuarantined(wire::PortsQuarantined {
            port_base: block.base.into(),
            port_size: block.size.into(),
            by: by.clone(),
        }),
        What::PortsReleased { block } => Wire::PortsReleased(wire::PortBlock {
            base: block.base.into(),
            size: block.size.into(),
        }),
    };
    let agent = e.agent.as_ref();
    wire::EventRecord {
        serial: e.serial,
        at_ms: e.at.0,
        revision: e.revision.0,
        node: e.node.map_or(0, |node| node.0),
        fleet: agent.map(|id| id.fleet.to_string()).unwrap_or_default(),
        agent: agent.map(|id| id.agent.to_string()).unwrap_or_default(),
        what: Some(what),
    }
}

pub(super) fn get_event(e: wire::EventRecord) -> Result<Event> {
    use wire::event_record::What as Wire;
    let what = match need("event", e.what)? {
        Wire::AgentPlaced(w) => What::AgentPlaced {
            generation: Generation(w.generation),
            evidence: get_evidence(w.evidence)?,
        },
        Wire::AgentPending(reason) => What::AgentPending { reason: get_pending(reason)? },
        Wire::AgentEvicted(cause) => What::AgentEvicted { cause: get_cause(cause)? },
        Wire::AgentKept(_) => What::AgentKept,
        Wire::AgentDeleted(_) => What::AgentDeleted,
        Wire::NodeAdmitted(role) => What::NodeAdmitted { role: get_role(role)? },
        Wire::NodeRegistered(epoch) => What::NodeRegistered { epoch: Epoch(epoch) },
        Wire::NodeFenced(w) => {
            What::NodeFenced { evidence: get_evidence(w.evidence)?, agents: w.agents }
        }
        Wire::NodeScheduling(s) => What::NodeScheduling { schedulable: get_schedulable(s)? },
        Wire::NodeRemoved(_) => What::NodeRemoved { name: String::new() },
        Wire::NodeGone(name) => What::NodeRemoved { name },
        Wire::RoleChanged(w) => {
            let role = get_role(w.role)?;
            What::RoleChanged { role, cause: role_cause(w.cause, role, w.automatic)? }
        }
        Wire::NodeHeld(lease_ms) => What::NodeHeld { lease_ms },
        Wire::HoldEnded(_) => What::HoldEnded,
        Wire::AgentRunsTwice(w) => What::AgentRunsTwice {
            generation: Generation(w.generation),
            start: w.start,
            former: some_node(w.former_node).map(|node| (node, Generation(w.former_generation))),
            line: w.line,
        },
        Wire::AgentParked(w) => What::AgentParked { start: w.start, why: w.why },
        Wire::PortsQuarantined(w) => {
            What::PortsQuarantined { block: block(w.port_base, w.port_size)?, by: w.by }
        }
        Wire::PortsReleased(w) => What::PortsReleased { block: block(w.base, w.size)? },
    };
    let agent = (!e.agent.is_empty()).then(|| -> Result<AgentId> {
        Ok(AgentId { fleet: parse("fleet", &e.fleet)?, agent: parse("agent", &e.agent)? })
    });
    Ok(Event {
        serial: e.serial,
        at: Timestamp(e.at_ms),
        revision: Revision(e.revision),
        node: some_node(e.node),
        agent: agent.transpose()?,
        what,
    })
}
