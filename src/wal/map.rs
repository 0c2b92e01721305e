//! Read-only memory maps that cannot kill the process.
