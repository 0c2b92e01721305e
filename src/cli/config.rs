//! `saltus config`: looking at a configuration without starting a node.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::output;
use crate::config::Config;

/// The commands under `saltus config`.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a file as run would, beside a running node or before its start
    ///
    /// Exit code 0, or 2 with the line that is wrong. Run it as the user of
    /// the service: directories are looked at, and nothing is changed. Whether
    /// ports are free, and replicas answer, is not asked.
    Check {
        /// The configuration file
        file: PathBuf,
    },
}

pub(super) fn run(command: &ConfigCommand, json: bool) -> anyhow::Result<ExitCode> {
    let ConfigCommand::Check { file } = command;
    let config = Config::load(file)?;
    let replicas: Vec<_> = (config.replicas.iter())
        .map(|replica| format!("{} at {}", replica.id, replica.address))
        .collect();
    if json {
        output::json(&json!({
            "file": file.display().to_string(),
            "valid": true,
            "node": config.node.id,
            "cluster": config.node.cluster,
            "data_root": config.node.data_root.display().to_string(),
            "state_dir": config.node.state_dir.display().to_string(),
            "replication": config.listen.replication,
            "admin": config.listen.admin,
            "replicas": (config.replicas.iter())
                .map(|replica| json!({"id": replica.id, "address": replica.address}))
                .collect::<Vec<_>>(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let receives = config.listen.replication.map(|address| format!("on {address}"));
    let ships = if replicas.is_empty() { "to nobody".to_owned() } else { replicas.join(", ") };
    output::print(&format!(
        "{}: valid\n  node      {} of cluster {}\n  data      {}\n  state     {}\n  receives  {}\n  \
         ships     {ships}\n  admin     {}\n",
        file.display(),
        config.node.id,
        config.node.cluster,
        config.node.data_root.display(),
        config.node.state_dir.display(),
        receives.as_deref().unwrap_or("nothing"),
        config.listen.admin,
    ))?;
    Ok(ExitCode::SUCCESS)
}
