//! Calling the public API through whichever node answers.

use std::{future::Future, time::Duration};

use tonic::{Code, Status, transport::Channel};

use crate::{channel::connect_any_member, context::Context, identity::Identity};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pause between rounds over the endpoints.
const PAUSE: Duration = Duration::from_millis(200);

/// A cluster's API behind several endpoints.
#[derive(Clone)]
pub struct Client {
    channels: Vec<(String, Channel)>,
    patience: Duration,
}

impl Client {
    /// Connects, on first use, to the endpoints of a context. A call is tried on each in turn, and
    /// again, until it is answered or `patience` is over.
    ///
    /// # Errors
    /// When an endpoint is malformed.
    pub fn new(context: &Context, identity: &Identity, patience: Duration) -> Result<Self, Status> {
        let open = |address: &String| Ok((address.clone(), connect_any_member(identity, address)?));
        let channels = context.endpoints.iter().map(open).collect::<Result<_, Status>>()?;
        Ok(Self { channels, patience })
    }

    /// The endpoints, with a connection to each.
    pub fn channels(&self) -> &[(String, Channel)] {
        &self.channels
    }

    /// Makes a call that is safe to repeat: one that reads, or carries a request id. An endpoint
    /// that is unreachable or has no leader is passed over.
    ///
    /// # Errors
    /// The answer, if it is an error; or the last failure when nobody answered in time.
    pub async fn call<T, F>(&self, mut call: impl FnMut(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = tokio::time::Instant::now() + self.patience;
        let mut last = Status::unavailable("the context names no endpoint");
        loop {
            for (address, channel) in &self.channels {
                let attempt = tokio::time::timeout(ATTEMPT, call(channel.clone())).await;
                let status = match attempt {
                    Ok(Ok(answer)) => return Ok(answer.into_inner()),
                    Ok(Err(status)) => status,
                    Err(_) => Status::unavailable(format!("{address} did not answer in time")),
                };
                if status.code() != Code::Unavailable {
                    return Err(status);
                }
                last = status;
            }
            if tokio::time::Instant::now() + PAUSE >= deadline {
                return Err(last);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
