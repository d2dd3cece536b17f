//! The public API on the leader, one file a service. The gate has seen to it that only the leader
//! gets here.

mod agent;
mod census;
mod cluster;
mod event;
mod explain;
mod fleet;
mod join;
mod loss;
mod node;
mod plan;
mod problems;
mod token;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use fleet_client::Identity;
use fleet_core::{Operation, Outcome, Request as Idempotency, State};
use fleet_host::runtimes::Runtimes;
use fleet_proto::{resource, v1};
use fleet_raft::{Node, ReadError};
use fleet_types::limits;
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Status, service::RoutesBuilder};

use crate::{
    data_dir::VoterSecrets,
    leader::Observed,
    leases::Leases,
    pki::Authority,
    proposer::{Proposer, not_leader},
};

/// What the services work with.
pub struct Api {
    /// Consensus.
    pub raft: Node,
    /// Proposals.
    pub proposer: Proposer,
    /// Leases, for their age.
    pub leases: Arc<Leases>,
    /// What hosts report.
    pub observed: Arc<Observed>,
    /// Runtime definitions, for block sizes and reserved keys.
    pub runtimes: Runtimes,
    /// The CA, for joiners.
    pub authority: Authority,
    /// What joining voters are given.
    pub secrets: VoterSecrets,
    /// For calling hosts.
    pub identity: Identity,
    /// The last term in which this node, as the leader, was seen to have applied all that leaders
    /// before it committed; 0 before the first.
    pub settled: AtomicU64,
}

/// Bytes after which a page has no more records, however many are asked for: a client takes 4 MiB by
/// default, and none has one.
const PAGE_BYTES: usize = 3 << 20;

/// The first `size` of some records, or fewer where they are large, and whether that is not all.
fn page<T: Message>(all: impl Iterator<Item = T>, size: usize) -> (Vec<T>, bool) {
    let (mut page, mut bytes) = (Vec::new(), 0);
    for record in all {
        if page.len() == size || bytes >= PAGE_BYTES {
            return (page, true);
        }
        bytes += record.encoded_len();
        page.push(record);
    }
    (page, false)
}

/// A call's idempotency key with the fingerprint of its content.
fn idempotency(request_id: &str, content: &impl Message) -> Result<Option<Idempotency>, Status> {
    let Some(id) = resource::parse_request_id(request_id)? else { return Ok(None) };
    let hash = Sha256::digest(content.encode_to_vec());
    let (first, _) = hash.split_at(8);
    let fingerprint = u64::from_be_bytes(first.try_into().expect("8 bytes"));
    Ok(Some(Idempotency { id, fingerprint }))
}

impl Api {
    /// Whether a request was carried out before: what it names may be no more.
    async fn is_done(&self, request_id: &str, content: &impl Message) -> Result<bool, Status> {
        let Some(key) = idempotency(request_id, content)? else { return Ok(false) };
        let known = |state: &State| {
            let known = state.requests().get(&key.id)?;
            (known.fingerprint == key.fingerprint).then_some(())
        };
        Ok(self.read(known).await?.is_some())
    }

    /// Returns once reads see the state as it is now or later.
    async fn linearize(&self) -> Result<(), Status> {
        self.raft.linearize().await.map_err(|error| match error {
            ReadError::NotLeader { leader } => not_leader(leader),
            ReadError::NoQuorum(_) => not_leader(None),
        })
    }

    /// Reads the state for a command that this node then commits, with all that anyone was told
    /// before: what leaders before committed is looked for once a term, and what this one commits it
    /// applies before it answers. A leader of the past commits nothing.
    async fn read_to_commit<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, Status> {
        let term = self.raft.status().term;
        if self.settled.load(Ordering::Relaxed) != term {
            self.linearize().await?;
            self.settled.store(term, Ordering::Relaxed);
        }
        Ok(self.raft.read(read))
    }

    /// Reads the state as it is now or later, never as it was.
    async fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, Status> {
        self.linearize().await?;
        Ok(self.raft.read(read))
    }

    /// Commits an operation under a call's idempotency key.
    async fn change(
        &self,
        request_id: &str,
        content: &impl Message,
        operation: Operation,
    ) -> Result<Outcome, Status> {
        let key = idempotency(request_id, content)?;
        let build: crate::proposer::Build = Box::new(move |_| Ok(operation));
        self.proposer.commit(key, content.encoded_len(), build).await
    }
}

/// Adds the services to a listener.
pub fn add_services(routes: &mut RoutesBuilder, api: &Arc<Api>) {
    macro_rules! add {
        ($bytes_max:expr; $($server:ident :: $name:ident),+) => {$(
            routes.add_service(
                v1::$server::$name::from_arc(api.clone())
                    .max_decoding_message_size($bytes_max)
                    .max_encoding_message_size(4 * limits::MESSAGE_BYTES_MAX),
            );
        )+};
    }
    // A call for too many agents is to be told so by their number.
    add!(4 * limits::MESSAGE_BYTES_MAX; agent_service_server::AgentServiceServer);
    add!(
        limits::MESSAGE_BYTES_MAX;
        cluster_service_server::ClusterServiceServer,
        event_service_server::EventServiceServer,
        node_service_server::NodeServiceServer,
        fleet_service_server::FleetServiceServer,
        token_service_server::TokenServiceServer,
        join_service_server::JoinServiceServer
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_with_its_size_or_its_bytes() {
        let texts = |count: usize, bytes: usize| (0..count).map(move |_| "x".repeat(bytes));
        for (all, size, expected) in [
            (texts(5, 1), 5, (5, false)),
            (texts(5, 1), 3, (3, true)),
            (texts(0, 1), 3, (0, false)),
            (texts(9, 1 << 20), 9, (3, true)),
            (texts(3, 1 << 20), 9, (3, false)),
        ] {
            let (found, more) = page(all, size);
            assert_eq!((found.len(), more), expected);
        }
    }
}
