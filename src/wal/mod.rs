//! The log on disk.
pub mod compare;
pub mod cursor;
pub mod discover;
pub mod extent;
pub mod index;
pub mod map;
pub mod record;
pub mod scan;
pub mod search;
pub mod segment;
pub mod writer;
