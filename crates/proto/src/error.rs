//! Errors as the API shows them: a gRPC status with a stable reason.
//!
//! Every status carries `google.rpc.ErrorInfo` with domain [`DOMAIN`], an upper-case reason that
//! never changes once released, and the field and value at fault where there are any.

use std::collections::HashMap;

use fleet_core::{Kind, Rejection};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// `ErrorInfo.domain` of every error of this API.
pub const DOMAIN: &str = "fleet-cluster";

/// A status with a reason and metadata.
pub fn status(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    metadata: &[(&str, &str)],
) -> Status {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// A request field that cannot be right.
pub fn invalid_field(
    reason: &str,
    field: &str,
    value: &str,
    why: impl std::fmt::Display,
) -> Status {
    let value: String = value.chars().take(120).collect();
    let message = format!("{field}: {why}");
    status(Code::InvalidArgument, reason, message, &[("field", field), ("value", &value)])
}

/// The status of a refusal by the state machine.
pub fn from_rejection(rejection: &Rejection) -> Status {
    let code = match rejection.kind() {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::Aborted => Code::Aborted,
        Kind::PermissionDenied => Code::PermissionDenied,
    };
    let subject = rejection.subject();
    status(code, rejection.reason(), rejection.to_string(), &[("subject", &subject)])
}

/// The reason a status carries, if it carries one.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}
