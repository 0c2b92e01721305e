//! The log on disk.
pub mod extent;
pub mod record;
pub mod cursor;
pub mod map;
pub mod segment;
pub mod index;
