//! Every named upper limit of the system. A request past one of these is refused by name.

/// Longest name of a fleet, agent, node or runtime, in bytes.
pub const NAME_BYTES_MAX: usize = 40;
/// Longest label key or value, in bytes.
pub const LABEL_BYTES_MAX: usize = 63;
/// Most labels on one record.
pub const LABELS_MAX: usize = 32;
/// Longest idempotency key, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Requests whose outcome is remembered for a retry; the oldest is forgotten first.
pub const REQUESTS_REMEMBERED_MAX: usize = 10_000;
/// Most agents one call may create.
pub const AGENTS_PER_CALL_MAX: usize = 1_000;
/// Agents planned by one call.
pub const AGENTS_PER_PLAN_MAX: usize = 10_000;
/// Largest configuration overlay of one agent or fleet, in bytes.
pub const CONFIG_BYTES_MAX: usize = 64 * 1024;
/// Most words in an agent's command, and most variables in its environment.
pub const COMMAND_WORDS_MAX: usize = 64;
/// Longest word of a command, or value of an environment variable, in bytes.
pub const COMMAND_WORD_BYTES_MAX: usize = 4096;
/// Most commands batched into one log entry.
pub const BATCH_COMMANDS_MAX: usize = 1_024;
/// Most encoded bytes batched into one log entry.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Largest message any of the gRPC services accepts, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest message by which a host is told of all its agents, in bytes: of 4,000 with the largest
/// spec there may be.
pub const ASSIGNMENT_BYTES_MAX: usize = 1 << 30;
/// Largest piece of a snapshot in one message, in bytes.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;
/// Most nodes of one cluster.
pub const NODES_MAX: usize = 10_000;
/// Most fleets of one cluster.
pub const FLEETS_MAX: usize = 10_000;
/// Most agents of one cluster.
pub const AGENTS_MAX: usize = 1_000_000;
/// Most join tokens alive at once.
pub const TOKENS_MAX: usize = 1_000;
/// Longest life of a join token: seven days, in milliseconds.
pub const TOKEN_TTL_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// Most joins one token may serve.
pub const TOKEN_USES_MAX: u32 = 1_000;
/// Largest port block, in ports.
pub const PORT_BLOCK_MAX: u16 = 1_024;
/// Lengths of the leases of a held node, in milliseconds: up to an hour.
pub const HOLD_MS: core::ops::RangeInclusive<u64> = 10_000..=3_600_000;
/// Priorities an agent may have.
pub const PRIORITIES: core::ops::RangeInclusive<i32> = -1_000..=1_000;
/// How many nodes may be set to vote. An even number stands no more losses than the odd one below.
pub const VOTERS: [u8; 3] = [3, 5, 7];
/// How much of what a node has may be promised to agents, in hundredths.
pub const OVERCOMMIT_PERCENT: core::ops::RangeInclusive<u16> = 1..=1_000;
/// Agents that may be on the move at once for balance.
pub const REBALANCE_MOVES: core::ops::RangeInclusive<u16> = 1..=1_000;
/// Most agents one command asks to leave their nodes.
pub const EVICTIONS_MAX: usize = 1_000;
/// How much is kept of what an agent says of itself, in characters.
pub const QUOTE_CHARS_MAX: usize = 300;
/// Most agents one command records as parked.
pub const PARKED_MAX: usize = 100;
/// Events that are kept; the oldest is forgotten first.
pub const EVENTS_MAX: usize = 100_000;
/// Records a list call returns when the caller names no page size.
pub const PAGE_SIZE_DEFAULT: usize = 500;
/// Most records a list call returns at once.
pub const PAGE_SIZE_MAX: usize = 1_000;
/// First uid handed to an agent. Far above the ranges distributions use for people and services
/// (1000–59999) and below the sub-uid ranges (from 100000).
pub const AGENT_UID_FIRST: u32 = 2_000_000;
/// Last one. More agents than a cluster will ever have; uids are not used twice.
pub const AGENT_UID_LAST: u32 = i32::MAX.unsigned_abs();
