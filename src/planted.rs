//! Bugs that are put back in on purpose, to show that the simulator finds them.
//!
//! An ordinary build has none: [`is`] is then the constant `false`, and what
//! hangs on it is not compiled in. With the feature `planted-bugs`, which is
//! for one test, a thread can plant one for itself.

#![forbid(unsafe_code)]

/// A mistake that somebody could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A replica acknowledges what is written as if it were synced.
    AckBeforeSync,
    /// The checksum of every eighth payload is not compared.
    SkippedChecksum,
    /// Recovery leaves one byte behind the end of a segment's last record.
    OneByteTooMany,
    /// The name of a new segment is not made durable.
    NameNotSynced,
    /// A primary of an epoch that is over is taken for the present one.
    StaleEpochObeyed,
    /// What is cut off is copied to the quarantine, and the copy is not synced.
    CutBeforeSaved,
    /// A primary begins a new epoch before the catalog has it.
    EpochNotDurable,
    /// A file is put in the place of a damaged one before it is synced.
    MendedBeforeSync,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::AckBeforeSync,
        Self::SkippedChecksum,
        Self::OneByteTooMany,
        Self::NameNotSynced,
        Self::StaleEpochObeyed,
        Self::CutBeforeSaved,
        Self::EpochNotDurable,
        Self::MendedBeforeSync,
    ];
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plant a bug in everything that this thread does from now on, or none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted here.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is planted here: it is not.
#[cfg(not(feature = "planted-bugs"))]
#[inline]
#[must_use]
pub const fn is(_bug: Bug) -> bool {
    false
}
