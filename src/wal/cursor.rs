//! Turning new bytes into marks, by headers alone.
