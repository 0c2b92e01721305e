//! Connections that have not said who they are, and what is said of them.
//!
//! ```text
//!   accepted --> stranger --Hello--> peer, not known here any more
//!                   |
//!                   +-- garbage, silence, one stranger too many --> ended,
//!                       one line a minute for each address, the rest counted
//! ```
//!
//! A place among the strangers costs nothing to take, so it is worth nothing
//! either: when all are taken, the oldest connection of the address that has
//! most of them goes. Somebody who says `Hello` at once needs a place for a
//! round trip, and keeps it, however many others say nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::limits::{COMPLAINT_INTERVAL, MAX_COMPLAINED_ADDRESSES, MAX_STRANGERS};

/// Stands for all addresses beyond [`MAX_COMPLAINED_ADDRESSES`].
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What was said of addresses, by all shards: how often nothing more was said
/// since. Held for a look-up when a connection has come to nothing; no data
/// waits for it.
#[derive(Clone, Debug, Default)]
pub struct Complaints(Arc<Mutex<BTreeMap<IpAddr, u64>>>);

impl Complaints {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The strangers of one shard, by the number of their connection.
#[derive(Debug, Default)]
pub struct Doorkeeper {
    /// In the order in which they came.
    strangers: BTreeMap<u64, IpAddr>,
    complaints: Complaints,
    /// The addresses of which this shard has said something, and when: it also
    /// tells how often nothing was said.
    told: BTreeMap<IpAddr, Instant>,
}

impl Doorkeeper {
    /// One that complains together with others.
    #[must_use]
    pub fn among(self, complaints: Complaints) -> Self {
        Self { complaints, ..self }
    }

    /// A connection has come; numbers ascend. Gives the one that must go for
    /// it, if one must.
    pub fn enter(&mut self, id: u64, address: IpAddr) -> Option<u64> {
        let leaves = if self.strangers.len() < MAX_STRANGERS { None } else { self.turn_out() };
        self.strangers.insert(id, address);
        leaves
    }

    /// It has said who it is, or has ended. True if it was a stranger.
    pub fn leave(&mut self, id: u64) -> bool {
        self.strangers.remove(&id).is_some()
    }

    /// How many there are.
    #[must_use]
    pub fn strangers(&self) -> usize {
        self.strangers.len()
    }

    /// Take out the oldest of the address that has most.
    pub fn turn_out(&mut self) -> Option<u64> {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        for address in self.strangers.values() {
            *counts.entry(*address).or_default() += 1;
        }
        let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        let id = self.strangers.iter().find(|(_, address)| **address == most).map(|(id, _)| *id)?;
        self.strangers.remove(&id);
        Some(id)
    }

    /// Something is to be said about an address. True if it may be said now;
    /// else it is counted.
    pub fn complain(&mut self, now: Instant, address: IpAddr) -> bool {
        let mut complaints = self.complaints.lock();
        let full = complaints.len() >= MAX_COMPLAINED_ADDRESSES;
        let known = complaints.contains_key(&address);
        let address = if full && !known { OTHERS } else { address };
        if let Some(left_out) = complaints.get_mut(&address) {
            *left_out += 1;
            return false;
        }
        complaints.insert(address, 0);
        self.told.insert(address, now);
        true
    }

    /// Addresses of which something was left out, how often, now that their
    /// minute is over.
    pub fn left_out(&mut self, now: Instant) -> Vec<(IpAddr, u64)> {
        let mut due = Vec::new();
        let mut complaints = self.complaints.lock();
        self.told.retain(|address, told_at| {
            if now < *told_at + COMPLAINT_INTERVAL {
                return true;
            }
            let left_out = complaints.remove(address).unwrap_or(0);
            if left_out > 0 {
                due.push((*address, left_out));
                // The count was this minute's line.
                complaints.insert(*address, 0);
                *told_at = now;
            }
            left_out > 0
        });
        due
    }

    /// When to ask [`left_out`](Self::left_out).
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.told.values().map(|told_at| *told_at + COMPLAINT_INTERVAL).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_crowd_takes_places_from_itself_only() {
        let mut door = Doorkeeper::default();
        assert_eq!(door.enter(0, address(9)), None);
        for id in 1..MAX_STRANGERS as u64 {
            assert_eq!(door.enter(id, address(1)), None);
        }
        for id in MAX_STRANGERS as u64..10_000 {
            let leaves = door.enter(id, address(1));
            assert_eq!(leaves, Some(id + 1 - MAX_STRANGERS as u64), "the oldest of the crowd");
            assert_eq!(door.strangers(), MAX_STRANGERS);
        }
        assert!(door.leave(0), "the one that came first is still there");
        assert!(!door.leave(0));
    }

    #[test]
    fn one_that_is_known_takes_no_place() {
        let mut door = Doorkeeper::default();
        for id in 0..3 * MAX_STRANGERS as u64 {
            assert_eq!(door.enter(id, address(1)), None);
            assert!(door.leave(id));
        }
        assert_eq!(door.strangers(), 0);
    }

    #[test]
    fn an_address_is_complained_of_once_a_minute_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut door = Doorkeeper::default();
        assert!(door.complain(start, address(1)));
        assert!(door.complain(start, address(2)));
        for _ in 0..999 {
            assert!(!door.complain(start, address(1)));
        }
        assert_eq!(door.next_timeout(), Some(start + COMPLAINT_INTERVAL));
        assert_eq!(door.left_out(start + COMPLAINT_INTERVAL / 2), []);
        let minute = start + COMPLAINT_INTERVAL;
        assert_eq!(door.left_out(minute), [(address(1), 999)]);
        assert!(!door.complain(minute, address(1)), "its line for this minute was the count");
        assert!(door.complain(minute, address(2)), "nothing was left out of that one");
        let later = minute + COMPLAINT_INTERVAL;
        assert_eq!(door.left_out(later), [(address(1), 1)]);
        assert_eq!(door.left_out(later + COMPLAINT_INTERVAL), []);
        assert_eq!(door.next_timeout(), None, "what is over is forgotten");
    }

    #[test]
    fn an_address_is_complained_of_once_however_many_shards_meet_it() {
        let start = Instant::now();
        let complaints = Complaints::default();
        let mut doors = [(); 3].map(|()| Doorkeeper::default().among(complaints.clone()));
        assert!(doors[1].complain(start, address(1)));
        for _ in 0..100 {
            assert!(doors.iter_mut().all(|door| !door.complain(start, address(1))));
        }
        // Who has said it tells the rest.
        assert_eq!(
            doors.each_ref().map(|door| door.next_timeout().is_some()),
            [false, true, false]
        );
        let minute = start + COMPLAINT_INTERVAL;
        let told = doors.each_mut().map(|door| door.left_out(minute));
        assert_eq!(told, [vec![], vec![(address(1), 300)], vec![]]);
        let later = minute + COMPLAINT_INTERVAL;
        assert_eq!(doors[1].left_out(later), []);
        assert!(doors[2].complain(later, address(1)), "what is over is forgotten by all");
    }

    #[test]
    fn many_addresses_share_one_count() {
        let now = Instant::now();
        let mut door = Doorkeeper::default();
        let lines = (0..10_000_u32).filter(|n| door.complain(now, IpAddr::V4((*n).into()))).count();
        assert!(lines <= MAX_COMPLAINED_ADDRESSES + 1, "{lines} lines");
        let counted: u64 =
            door.left_out(now + COMPLAINT_INTERVAL).iter().map(|(_, count)| count).sum();
        assert_eq!(counted + lines as u64, 10_000);
    }
}
