//! Who the two ends are: the bodies of `Hello` and `HelloAck`.

#![forbid(unsafe_code)]

use super::field::{MessageError, Reader, put_name, put_u32, put_u64};
use super::frame::VERSION;
use super::refusal::ErrorCode;
use crate::ids::{ClusterId, NodeId, NodeUuid};

/// Features that this build understands. No bit is given away yet;
/// authentication and compression will take the first ones.
pub const FEATURES: u64 = 0;

/// Who a node is; in the body of `Hello` and `HelloAck`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// All nodes of one cluster share it.
    pub cluster: ClusterId,
    /// Configured name.
    pub node: NodeId,
    /// Drawn once per state directory.
    pub uuid: NodeUuid,
}

impl Identity {
    /// Whether a node may talk to that peer at all.
    ///
    /// # Errors
    /// [`ErrorCode::Cluster`] or [`ErrorCode::Itself`], with a sentence for the
    /// operators of both ends.
    pub fn check_peer(&self, peer: &Self) -> Result<(), (ErrorCode, String)> {
        if peer.uuid == self.uuid {
            return Err((
                ErrorCode::Itself,
                format!("this node has reached itself: both ends are {}", self.node),
            ));
        }
        if peer.cluster != self.cluster {
            return Err((
                ErrorCode::Cluster,
                format!(
                    "{} belongs to cluster {}, {} to cluster {}",
                    self.node, self.cluster, peer.node, peer.cluster
                ),
            ));
        }
        if peer.node == self.node {
            return Err((
                ErrorCode::Itself,
                format!(
                    "two nodes are called {}: uuids {:?} and {:?}; give one another id",
                    self.node, self.uuid, peer.uuid
                ),
            ));
        }
        Ok(())
    }
}

/// The body of `Hello`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version that the primary speaks; at least 1.
    pub min_version: u8,
    /// The highest, at least `min_version`.
    pub max_version: u8,
    /// Which of the primary's shards this connection belongs to.
    pub shard: u16,
    /// Features offered, a bit each.
    pub features: u64,
    /// Who the primary is.
    pub identity: Identity,
}

/// The body of `HelloAck`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloAck {
    /// The version that both speak from here on.
    pub version: u8,
    /// Features accepted, a subset of those offered.
    pub features: u64,
    /// Who the replica is.
    pub identity: Identity,
}

impl Identity {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.uuid.0.to_le_bytes());
        put_name(out, self.cluster.as_str());
        put_name(out, self.node.as_str());
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        Ok(Self {
            uuid: NodeUuid(reader.u128("uuid")?),
            cluster: reader.name("cluster")?,
            node: reader.name("node")?,
        })
    }
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.min_version, self.max_version]);
        out.extend_from_slice(&self.shard.to_le_bytes());
        put_u32(out, 0);
        put_u64(out, self.features);
        self.identity.encode(out);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let (min_version, max_version) = (reader.u8("min_version")?, reader.u8("max_version")?);
        if min_version == 0 || min_version > max_version {
            return Err(MessageError::Value {
                field: "min_version",
                found: u64::from(min_version),
                expected: "1 to max_version",
            });
        }
        let shard = reader.u16("shard")?;
        reader.zeros("reserved", 4)?;
        let features = reader.u64("features")?;
        let identity = Identity::decode(reader)?;
        Ok(Self { min_version, max_version, shard, features, identity })
    }

    /// The highest version that both speak.
    #[must_use]
    pub fn common_version(&self) -> Option<u8> {
        // This build speaks one version, so the overlap is that one or none.
        (self.min_version..=self.max_version).contains(&VERSION).then_some(VERSION)
    }
}

impl HelloAck {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.version);
        out.extend_from_slice(&[0; 7]);
        put_u64(out, self.features);
        self.identity.encode(out);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let version = reader.u8("version")?;
        reader.zeros("reserved", 7)?;
        let features = reader.u64("features")?;
        Ok(Self { version, features, identity: Identity::decode(reader)? })
    }
}
