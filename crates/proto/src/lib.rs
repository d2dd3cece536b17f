//! Every message on the wire or on disk, and every conversion between messages and plain values.
//!
//! `gen/` is written by `cargo xtask gen-proto` from `proto/` and committed, so that building
//! needs no compiler for protos. Three families: `v1` is the public API, `host`, `lease` and
//! `raft` are what nodes say to each other, `storage` is what is written to disk.
#![forbid(unsafe_code)]

pub mod convert;
pub mod error;
pub mod json;
pub mod resource;

#[allow(missing_docs, clippy::all, clippy::too_many_lines, clippy::large_futures)]
mod generated {
    pub mod fleet {
        pub mod v1 {
            include!("gen/fleet.v1.rs");
        }
        pub mod internal {
            pub mod host {
                pub mod v1 {
                    include!("gen/fleet.internal.host.v1.rs");
                }
            }
            pub mod lease {
                pub mod v1 {
                    include!("gen/fleet.internal.lease.v1.rs");
                }
            }
            pub mod raft {
                pub mod v1 {
                    include!("gen/fleet.internal.raft.v1.rs");
                }
            }
            pub mod storage {
                pub mod v1 {
                    include!("gen/fleet.internal.storage.v1.rs");
                }
            }
        }
    }
}

pub use generated::fleet::{
    internal::{host::v1 as host, lease::v1 as lease, raft::v1 as raft, storage::v1 as storage},
    v1,
};

/// The compiled `proto/`, as a serialised `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
