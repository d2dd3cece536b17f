//! `init` and `join`.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use fleet_client::Token;
use fleet_runtime::Config;
use fleet_server::{
    data_dir::DataDir,
    setup::{self, Place},
};

use crate::{
    args::{self, CONFIG, Global, Init, Join},
    session::{context_path, read_text},
};

/// This machine's name, as a node name.
fn host_name() -> Result<fleet_types::NodeName> {
    let host = nix::unistd::gethostname().context("reading the host name")?;
    let host = host.to_string_lossy().split('.').next().unwrap_or_default().to_lowercase();
    host.parse().with_context(|| "the host name is no node name; give one with --name")
}

fn place(args: &args::Place) -> Result<(Config, DataDir, Place)> {
    let config = Config::load(&args.config, args.config != Path::new(CONFIG))?;
    config.port_range()?;
    config.labels()?;
    let data = DataDir::new(&config.data_dir);
    let name = match &args.name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let place = Place::new(name, &args.advertise, &args.listen.to_string())?;
    Ok((config, data, place))
}

/// Starts the daemon through systemd where that runs; says how to otherwise.
fn start(args: &args::Place) -> Result<()> {
    if args.no_start || !Path::new("/run/systemd/system").exists() {
        let config = args.config.display();
        eprintln!("start the daemon with: fleet-cluster run --config {config}");
        return Ok(());
    }
    let status = std::process::Command::new("systemctl")
        .args(["enable", "--now", "fleet-cluster.service"])
        .status()
        .context("running systemctl")?;
    if !status.success() {
        bail!("systemd did not start fleet-cluster; see `journalctl -u fleet-cluster`");
    }
    eprintln!("the daemon runs (systemctl status fleet-cluster)");
    Ok(())
}

/// `init`.
pub fn init(global: &Global, args: Init) -> Result<ExitCode> {
    let (_, data, place) = place(&args.place)?;
    let path = context_path(global)?;
    if path.exists() {
        let shown = path.display();
        bail!("{shown} is there already: move it away, or write elsewhere with --context");
    }
    let context = setup::init(&data, &place, args.profile)?;
    context.save(&path).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("cluster {} made; your certificate is in {}", context.cluster, path.display());
    start(&args.place)?;
    eprintln!("next, to add a machine: fleet-cluster token create");
    Ok(ExitCode::SUCCESS)
}

/// `join`.
pub async fn join(args: Join) -> Result<ExitCode> {
    let (_, data, place) = place(&args.place)?;
    let text = match (&args.token_file, args.token) {
        (Some(path), _) => read_text(path)?,
        (None, Some(token)) => token,
        (None, None) => bail!(
            "no join token: give --token-file FILE (- for standard input), or set \
             FLEET_CLUSTER_TOKEN; make one with `fleet-cluster token create` on a node"
        ),
    };
    let token: Token = text.parse()?;
    let node = setup::join_cluster(&data, &place, &args.address, &token).await?;
    let role = if node.voter { "voter" } else { "worker" };
    eprintln!("joined cluster {} as node {} ({role})", node.cluster, node.node);
    start(&args.place)?;
    Ok(ExitCode::SUCCESS)
}
