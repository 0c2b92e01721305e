//! The log on disk.
pub mod cursor;
pub mod extent;
pub mod index;
pub mod map;
pub mod record;
<<<<<<< HEAD
pub mod search;
=======
>>>>>>> io
pub mod segment;
