//! Exit codes, as `fleet-cluster --help` lists them.

use std::process::ExitCode;

use fleet_client::JoinError;
use fleet_server::setup::SetupError;
use tonic::{Code, Status};

/// `status`: something is wrong.
pub const UNHEALTHY: u8 = 6;

/// Waited too long for a result.
#[derive(Debug)]
pub struct TimedOut(pub String);

impl std::fmt::Display for TimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimedOut {}

fn of_status(status: &Status) -> u8 {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown => 3,
        Code::NotFound => 4,
        Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::PermissionDenied
        | Code::Unauthenticated => 5,
        _ => 1,
    }
}

/// What a transport error hides in its sources.
fn causes(status: &Status) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The exit code of an error.
pub fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(status) = error.downcast_ref::<Status>() {
        return of_status(status);
    }
    if error.downcast_ref::<TimedOut>().is_some() {
        return 7;
    }
    match error.downcast_ref() {
        Some(SetupError::Join(JoinError::Refused(_))) => 5,
        Some(SetupError::Join(_)) => 3,
        _ => 1,
    }
}

/// Prints what went wrong, with its stable reason and the way out, and says how to exit.
pub fn code(result: anyhow::Result<ExitCode>) -> ExitCode {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    if let Some(status) = error.downcast_ref::<Status>() {
        let reason = fleet_proto::error::reason(status);
        let reason = reason.unwrap_or_else(|| format!("{:?}", status.code()));
        eprintln!("error: {}{} [{reason}]", status.message(), causes(status));
        if status.code() == Code::Unavailable {
            eprintln!(
                "hint: is a majority of the voters running? see `systemctl status fleet-cluster` there"
            );
        }
    } else if let Some(SetupError::Join(join)) = error.downcast_ref() {
        eprintln!("error: {join} [{}]", join.reason());
    } else {
        eprintln!("error: {error:#}");
    }
    ExitCode::from(code_of(&error))
}
