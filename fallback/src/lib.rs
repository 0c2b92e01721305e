//! Portable primitives.
