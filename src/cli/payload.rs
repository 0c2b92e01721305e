//! Payloads that a load writes: of one size, no two alike.

/// Bytes that do not compress, with a number at their beginning.
#[derive(Debug)]
pub(super) struct Payload(Vec<u8>);

impl Payload {
    /// Of `bytes` bytes: xorshift from a fixed seed.
    pub(super) fn new(bytes: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut noise = Vec::with_capacity(bytes + 8);
        while noise.len() < bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend_from_slice(&state.to_le_bytes());
        }
        noise.truncate(bytes);
        Self(noise)
    }

    /// The payload of record number `number`. Those of neighbours differ, so
    /// that a record in the wrong place cannot pass for the right one.
    pub(super) fn numbered(&mut self, number: u64) -> &[u8] {
        for (to, byte) in self.0.iter_mut().zip(number.to_le_bytes()) {
            *to = byte;
        }
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_differ_at_every_size() {
        for bytes in [1, 7, 8, 1000] {
            let mut payload = Payload::new(bytes);
            let one = payload.numbered(255).to_vec();
            assert_eq!(one.len(), bytes);
            assert_ne!(payload.numbered(256), one);
        }
        assert!(Payload::new(0).numbered(1).is_empty());
    }
}
