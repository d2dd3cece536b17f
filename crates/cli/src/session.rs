//! A command's connection to its cluster.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use fleet_client::{Client, Context};
use fleet_proto::v1::{ListNodesRequest, node_service_client::NodeServiceClient};
use rand::RngCore;

use crate::{args::Global, exit::TimedOut};

/// How long learning where the nodes are may take.
const LEARNING: Duration = Duration::from_secs(1);

/// Where the context is when nothing else is said.
pub fn default_context() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CONFIG_HOME") {
        Some(base) => PathBuf::from(base),
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set; use --context")?;
            Path::new(&home).join(".config")
        }
    };
    Ok(base.join("fleet-cluster/context.json"))
}

/// The context file a command is to use.
pub fn context_path(global: &Global) -> Result<PathBuf> {
    match &global.context {
        Some(path) => Ok(path.clone()),
        None => default_context(),
    }
}

/// Connects to the cluster of the context.
pub fn client(global: &Global) -> Result<Client> {
    let path = context_path(global)?;
    let context = Context::load(&path)?;
    let identity = context.identity(&path)?;
    Ok(Client::new(&context, &identity, Duration::from_secs(global.patience))?)
}

/// Notes in the context where the cluster's nodes are now, so that the next command finds one that
/// is up. What stands in the way of that is no error of the command that was run.
pub async fn learn_members(global: &Global) {
    let learnt = async {
        let path = context_path(global)?;
        let mut context = Context::load(&path)?;
        let client = Client::new(&context, &context.identity(&path)?, LEARNING)?;
        let list = |channel| async move {
            NodeServiceClient::new(channel).list_nodes(ListNodesRequest::default()).await
        };
        let nodes = client.call(list).await?.nodes;
        let mut members: Vec<String> = nodes.into_iter().map(|node| node.api_address).collect();
        let answered = client.endpoint().map(str::to_owned);
        members.sort_by_key(|address| Some(address) != answered.as_ref());
        if context.members != members {
            context.members = members;
            context.save(&path)?;
        }
        anyhow::Ok(())
    };
    let _ = tokio::time::timeout(LEARNING, learnt).await;
}

/// A fresh idempotency key, so that the client may retry.
pub fn request_id() -> String {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text of a file, or of standard input for `-`.
pub fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
    } else {
        text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    }
    Ok(text)
}

/// Asks again and again until `look` answers something or `seconds` are over.
pub async fn wait_for<T, F>(seconds: u64, what: &str, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Result<T, String>>>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
    loop {
        let last = match look().await? {
            Ok(found) => return Ok(found),
            Err(last) => last,
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(TimedOut(format!("{what} after {seconds} s: {last}")).into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
