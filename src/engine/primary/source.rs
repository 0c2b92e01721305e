//! The bytes of an extent, as the backend takes them: a range of a file, and
//! where the strategy reads them itself, a window of a map.

use std::sync::Arc;

use super::space::Space;
use crate::io::{Mapped, Source, Strategy};
use crate::lsn::Lsn;
use crate::wal::map::Map;
use crate::wal::record::Checksums;
use crate::wal::segment::Segment;

/// The window of a map that extents are sent from.
const SEND_MAP_BYTES: usize = 64 << 20;

impl Space {
    /// The bytes of an extent, for the backend.
    #[must_use]
    pub fn source(
        &mut self,
        ordinal: u32,
        start: Lsn,
        bytes: u32,
        how: Strategy,
    ) -> Option<Source> {
        let run = *self.runs.get(ordinal)?;
        let segment = self.segment_of(ordinal)?;
        let offset = run.offset + start.bytes_since(run.start);
        // Records without checksums are read once here, for the frame's own.
        let read = self.checksums == Checksums::Optional;
        let mapped = match how {
            Strategy::SendZc | Strategy::Copy => self.window(run.file, &segment, offset, bytes),
            _ if read => self.window(run.file, &segment, offset, bytes),
            _ => None,
        };
        Some(Source { file: segment.file.clone(), offset, bytes, mapped })
    }

    /// The same bytes through a map, which is kept for the next extents.
    fn window(&mut self, file: u64, segment: &Segment, offset: u64, bytes: u32) -> Option<Mapped> {
        let want = usize::try_from(bytes).ok()?;
        if let Some((of, map)) = &self.send_map
            && *of == file
            && let Some(window) = map.window(offset, want)
        {
            return Some(Arc::new(window));
        }
        let map = Arc::new(Map::new(&segment.file, offset, SEND_MAP_BYTES.max(want)).ok()?);
        let window = map.window(offset, want)?;
        self.send_map = Some((file, map));
        Some(Arc::new(window))
    }
}
