//! The remembered record boundaries of a stream.
