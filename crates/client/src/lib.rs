//! Reaching a cluster: identities, verified connections, retries, and the joiner's first contact.
#![forbid(unsafe_code)]

mod api;
mod channel;
mod context;
pub mod identity;
mod join;
pub mod private_file;
mod token;

pub use api::Client;
pub use channel::{connect_any_member, connect_node};
pub use context::{Context, ContextError};
pub use identity::Identity;
pub use join::{JoinError, join};
pub use token::{InvalidToken, Token};
