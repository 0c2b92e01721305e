//! Who ships here, by name: two primaries must not share one.
//!
//! Connections are spread over the shards, so the shards share this. It is
//! asked once for each connection, at the handshake, and held for a look-up:
//! nothing on the way of the data waits for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::{NodeId, NodeUuid};
use crate::protocol::message::Identity;

/// A primary that is connected.
#[derive(Debug)]
struct Primary {
    uuid: NodeUuid,
    /// Where its first connection came from.
    address: SocketAddr,
    connections: usize,
}

/// All that are connected.
#[derive(Clone, Debug, Default)]
pub struct Primaries(Arc<Mutex<BTreeMap<NodeId, Primary>>>);

impl Primaries {
    /// A connection of that peer begins; it counts until the entry is dropped.
    ///
    /// # Errors
    ///
    /// Another node of that name is connected. A sentence for the operators of
    /// both.
    pub fn enter(&self, peer: &Identity, address: SocketAddr) -> Result<Entry, String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let primary = all.entry(peer.node.clone()).or_insert(Primary {
            uuid: peer.uuid,
            address,
            connections: 0,
        });
        if primary.uuid != peer.uuid {
            return Err(format!(
                "two nodes are called {}: the one at {} (uuid {:?}) ships here, and so would the \
                 one at {address} (uuid {:?}); give one of them another node.id",
                peer.node, primary.address, primary.uuid, peer.uuid
            ));
        }
        primary.connections += 1;
        Ok(Entry { primaries: self.clone(), node: peer.node.clone() })
    }
}

/// One connection of a primary.
#[derive(Debug)]
pub struct Entry {
    primaries: Primaries,
    node: NodeId,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut all = self.primaries.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(primary) = all.get_mut(&self.node) {
            primary.connections -= 1;
            if primary.connections == 0 {
                all.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn identity(node: &str, uuid: u128) -> Identity {
        let cluster = "test".parse().unwrap();
        Identity { cluster, node: node.parse().unwrap(), uuid: NodeUuid(uuid) }
    }

    #[test]
    fn name_belongs_to_one_node_for_as_long_as_it_is_connected() {
        let primaries = Primaries::default();
        let address = SocketAddr::from(([10, 0, 0, 1], 7));
        let enter = |node, uuid| primaries.enter(&identity(node, uuid), address);
        // A node has a connection for each of its shards.
        let first = enter("alpha", 1).unwrap();
        let second = enter("alpha", 1).unwrap();
        enter("beta", 2).unwrap();
        let why = enter("alpha", 2).unwrap_err();
        assert!(why.contains("two nodes are called alpha: the one at 10.0.0.1:7"), "{why}");
        drop(first);
        enter("alpha", 2).unwrap_err();
        drop(second);
        enter("alpha", 2).unwrap();
    }
}
