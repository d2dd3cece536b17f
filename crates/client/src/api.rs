//! Calling the public API through whichever node answers.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

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
    /// Position of the endpoint that answered last; it is asked first.
    answered: Arc<AtomicUsize>,
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
        let mut known: Vec<&String> = Vec::new();
        for address in context.members.iter().chain(&context.endpoints) {
            if !known.contains(&address) {
                known.push(address);
            }
        }
        let channels = known.into_iter().map(open).collect::<Result<_, Status>>()?;
        Ok(Self { channels, answered: Arc::default(), patience })
    }

    /// The endpoint that answered last, or will be asked first.
    pub fn endpoint(&self) -> Option<&str> {
        let (address, _) = self.channels.get(self.answered.load(Ordering::Relaxed))?;
        Some(address)
    }

    /// The endpoints in turn, beginning with that at `first`.
    fn from(&self, first: usize) -> impl Iterator<Item = (usize, &(String, Channel))> {
        let all = self.channels.iter().enumerate();
        all.clone().skip(first).chain(all.take(first))
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
            let first = self.answered.load(Ordering::Relaxed);
            for (position, (address, channel)) in self.from(first) {
                let attempt = tokio::time::timeout(ATTEMPT, call(channel.clone())).await;
                let status = match attempt {
                    Ok(Ok(answer)) => {
                        self.answered.store(position, Ordering::Relaxed);
                        return Ok(answer.into_inner());
                    }
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
