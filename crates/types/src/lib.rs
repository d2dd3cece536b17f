//! Plain values every other crate speaks in: names, ids, ports, time, lease timing and limits.
//!
//! Nothing here reads a clock, does I/O or knows of a wire format. A value that exists has been
//! checked: a name that does not parse cannot be built.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod class;
mod id;
mod label;
mod lease;
pub mod limits;
mod name;
mod port;
mod principal;
mod resources;
mod time;
mod version;

pub use class::{AgentClass, UnknownClass};
pub use id::{ClusterId, Epoch, Generation, InvalidId, NodeId, RequestId, Revision, TokenId};
pub use label::{InvalidLabel, Labels};
pub use lease::{LeaseProfile, LeaseTiming, UnknownProfile};
pub use name::{AgentId, AgentName, FleetName, InvalidName, NodeName, RuntimeName};
pub use port::{InvalidPortRange, PortBlock, PortRange};
pub use principal::Principal;
pub use resources::{InvalidLimit, ResourceLimits, Resources};
pub use time::Timestamp;
pub use version::{InvalidVersion, Version};
