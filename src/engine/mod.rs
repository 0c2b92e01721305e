//! The engine, as the command line sees it. A stand-in that opens its socket
//! and replicates nothing.
#![forbid(unsafe_code)]

pub mod status;

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::Config;
use crate::io::BackendChoice;
use status::{NodeStatus, ScrubStatus};

/// Why the engine did not start or did not stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The replication address cannot be bound. Nothing was started.
    #[error("cannot listen for replication on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// All shards of one node.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    listener: Option<TcpListener>,
}

impl Engine {
    /// Start.
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub fn start(config: &Config) -> Result<Self, EngineError> {
        let listener = config
            .listen
            .replication
            .map(|address| {
                TcpListener::bind(address).map_err(|source| EngineError::Listen { address, source })
            })
            .transpose()?;
        Ok(Self { config: config.clone(), listener })
    }

    /// Where it listens.
    #[must_use]
    pub fn replication_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// What it has to say.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            node: self.config.node.id.clone(),
            cluster: self.config.node.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            backend: match self.config.io.backend {
                BackendChoice::Portable => "portable",
                _ => "uring",
            }
            .into(),
            replication_address: self.replication_address(),
            problem: None,
            spaces: Vec::new(),
            scrub: ScrubStatus::default(),
        }
    }

    /// Why a shard died.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        None
    }

    /// Stop.
    ///
    /// # Errors
    ///
    /// None.
    pub fn shutdown(self) -> Result<(), EngineError> {
        Ok(())
    }
}
