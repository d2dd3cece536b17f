//! openraft's types to and from messages, for the wire and the disk alike.

use std::{collections::BTreeMap, io};

use fleet_proto::storage as wire;
use openraft::EntryPayload;

use crate::type_config::{
    Address, Batch, Entry, LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote,
};

/// A message that lacks a part.
pub(crate) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed {what}"))
}

pub(crate) fn put_vote(vote: &Vote) -> wire::Vote {
    wire::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn get_vote(vote: Option<wire::Vote>) -> io::Result<Vote> {
    let vote = vote.ok_or_else(|| malformed("vote"))?;
    let leader_id = LeaderId { term: vote.term, node_id: vote.node_id };
    Ok(Vote { leader_id, committed: vote.committed })
}

pub(crate) fn put_log_id(id: &LogId) -> wire::LogId {
    let leader = id.committed_leader_id();
    wire::LogId { term: leader.term, node_id: leader.node_id, index: id.index() }
}

pub(crate) fn get_log_id(id: wire::LogId) -> LogId {
    LogId::new(LeaderId { term: id.term, node_id: id.node_id }, id.index)
}

pub(crate) fn put_membership(membership: &Membership) -> wire::Membership {
    let configs = membership.get_joint_config().iter();
    wire::Membership {
        configs: configs
            .map(|ids| wire::VoterSet { node_ids: ids.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| wire::RaftNode { node_id: *id, address: node.0.clone() })
            .collect(),
    }
}

pub(crate) fn get_membership(membership: wire::Membership) -> io::Result<Membership> {
    let configs: Vec<_> =
        membership.configs.into_iter().map(|set| set.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Address> =
        membership.nodes.into_iter().map(|n| (n.node_id, Address(n.address))).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| malformed("membership"))
}

pub(crate) fn put_stored_membership(stored: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        log_id: stored.log_id().as_ref().map(put_log_id),
        membership: Some(put_membership(stored.membership())),
    }
}

pub(crate) fn get_stored_membership(
    stored: Option<wire::StoredMembership>,
) -> io::Result<StoredMembership> {
    let stored = stored.unwrap_or_default();
    let membership = get_membership(stored.membership.unwrap_or_default())?;
    Ok(StoredMembership::new(stored.log_id.map(get_log_id), membership))
}

pub(crate) fn put_entry(entry: Entry) -> wire::LogEntry {
    use wire::log_entry::Payload;
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(batch) => Some(Payload::Batch(batch.0)),
        EntryPayload::Membership(membership) => {
            Some(Payload::Membership(put_membership(&membership)))
        }
    };
    wire::LogEntry { log_id: Some(put_log_id(&entry.log_id)), payload }
}

pub(crate) fn get_entry(entry: wire::LogEntry) -> io::Result<Entry> {
    use wire::log_entry::Payload;
    let log_id = get_log_id(entry.log_id.ok_or_else(|| malformed("log entry"))?);
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(Payload::Batch(bytes)) => EntryPayload::Normal(Batch(bytes)),
        Some(Payload::Membership(m)) => EntryPayload::Membership(get_membership(m)?),
    };
    Ok(Entry { log_id, payload })
}

pub(crate) fn put_meta(meta: &SnapshotMeta) -> wire::SnapshotMeta {
    wire::SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(put_log_id),
        last_membership: Some(put_stored_membership(&meta.last_membership)),
    }
}

pub(crate) fn get_meta(meta: Option<wire::SnapshotMeta>) -> io::Result<SnapshotMeta> {
    let meta = meta.ok_or_else(|| malformed("snapshot description"))?;
    Ok(SnapshotMeta {
        last_log_id: meta.last_log_id.map(get_log_id),
        last_membership: get_stored_membership(meta.last_membership)?,
    })
}
