//! Hard links that keep segments readable.
