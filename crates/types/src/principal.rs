//! Who is at the other end of a connection, as its certificate says.

use crate::NodeId;

/// The holder of a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// A node of this cluster.
    Node(NodeId),
    /// An operator or a provisioning tool.
    Admin,
}
