//! Putting a damaged file right: a new one is built beside it, verified, made
//! durable, and takes its name. The damaged one goes to the quarantine.
//!
//! ```text
//!   old      ========#####=========|..0.. still growing, with holes
//!   new      ========fetched=======|      copied, verified, synced
//!                                  |`---- the keeper copies the rest, once the
//!                                  |      session has ended, and renames
//!                                  `----- durable when the look began
//! ```
//!
//! What lies behind the durable position is never copied while a session is
//! writing: writes end in another order than they lie in, so before the end of
//! a file there may be bytes that are still to come.
//!
//! Good bytes are copied and never touched in place: a mistake here could not
//! destroy what is right.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::peers::FreeBytes;
use super::stream::{Damage, Survey};
use super::{BadRange, Pace, Pass, Stopped};
use crate::engine::keeper::{Built, Ground, Scratch};
use crate::engine::status::RepairedFile;
use crate::engine::verifier::Verifier;
use crate::limits::{MENDING_FREE_BYTES, MENDING_SYNC_BYTES};
use crate::lsn::Mark;
use crate::planted::{self, Bug};
use crate::state::host::{Host, make_directories};
use crate::state::runs::Run;
use crate::wal::search::read_up_to;

impl Pass {
    /// Put right what can be, and report all of it.
    pub(super) async fn mend(
        &mut self,
        survey: Survey,
        ground: Ground,
        piece: &mut [u8],
        pace: &mut Pace,
    ) -> Result<(), Stopped> {
        let space = survey.space.clone();
        let mut files: BTreeMap<u64, Vec<&Damage>> = BTreeMap::new();
        for damage in survey.damages.iter().filter(|damage| damage.fetched.is_ok()) {
            files.entry(damage.run.file).or_default().push(damage);
        }
        let mut built = Vec::new();
        let mut failures = BTreeMap::new();
        for (file, damages) in &files {
            let bytes = survey.reach(*file);
            let directory = self.scratch_directory(&space);
            let place = Place { directory, name: format!("{file:016x}"), bytes };
            match self.build(&survey, damages, &place, piece, pace).await {
                Ok(scratch) => built.push(Built { file: *file, scratch, bytes }),
                Err(Failure::Stopped) => return Err(Stopped),
                Err(Failure::Io(error)) => {
                    failures.insert(*file, format!("a new file cannot be built: {error}"));
                }
            }
        }
        if !built.is_empty() {
            let adopting: Vec<u64> = built.iter().map(|built| built.file).collect();
            match self.adopt(&space, ground, built).await? {
                Ok(kept) => {
                    for path in kept {
                        tracing::warn!(%space, kept = %path.display(), "the damaged file was replaced");
                    }
                }
                Err(why) => {
                    failures.extend(adopting.into_iter().map(|file| (file, why.clone())));
                }
            }
        }
        let mut healthy = true;
        for damage in &survey.damages {
            let failure = failures.get(&damage.run.file).or(damage.fetched.as_ref().err());
            if let Some(why) = failure {
                healthy = false;
                let reason = format!("{}; not mended: {why}", damage.reason);
                let range = (damage.offset, damage.offset + damage.bytes);
                self.bad(&space, &damage.path, range, Some(damage.lsn), &reason);
            } else {
                self.mended(&space, damage);
            }
        }
        if healthy && let Some(mender) = &self.mender {
            mender.received.mended(&space);
        }
        Ok(())
    }

    /// Say that a range holds again.
    fn mended(&mut self, space: &crate::ids::SpaceId, damage: &Damage) {
        tracing::warn!(
            %space, path = %damage.path.display(), offset = damage.offset, bytes = damage.bytes,
            lsn = %damage.lsn, "mended: fetched from the primary, verified, and put in its place"
        );
        self.tally.found += 1;
        self.tally.healed += 1;
        let mut report = self.shared.report();
        let pass = report.passes + 1;
        report.bad.retain(|bad| bad.path != damage.path || bad.offset != damage.offset);
        report.mended(BadRange {
            space: space.clone(),
            path: damage.path.clone(),
            offset: damage.offset,
            bytes: damage.bytes,
            reason: damage.reason.clone(),
            lsn: Some(damage.lsn),
            pass,
        });
    }

    /// Build good copies of damaged files that the database owns: an operator
    /// takes them over, this process never writes there.
    pub(super) async fn repair(
        &mut self,
        survey: &Survey,
        piece: &mut [u8],
        pace: &mut Pace,
    ) -> Result<(), Stopped> {
        let space = survey.space.clone();
        let Some(mender) = self.mender.clone() else { return Ok(()) };
        let directory = mender.state_dir.join("repaired").join(space.as_str());
        let mut files: BTreeMap<u64, Vec<&Damage>> = BTreeMap::new();
        for damage in &survey.damages {
            files.entry(damage.run.file).or_default().push(damage);
        }
        for damages in files.values() {
            let Some(first) = damages.first() else { continue };
            let path = directory.join(first.run.segment.to_string());
            // What the database has written behind is its own: all of it goes
            // along.
            let size = first.path.metadata().map_or(0, |metadata| metadata.len());
            let bytes = survey.reach(first.run.file).max(size);
            let name = first.run.segment.to_string();
            let place = Place { directory: directory.clone(), name, bytes };
            let missing = damages.iter().find_map(|damage| damage.fetched.as_ref().err());
            let built = match missing {
                Some(why) => Err(io::Error::other(why.clone())),
                None => match self.build(survey, damages, &place, piece, pace).await {
                    Ok(scratch) => mender
                        .host
                        .rename(&scratch.path, &path)
                        .and_then(|()| mender.host.sync_directory(&directory)),
                    Err(Failure::Stopped) => return Err(Stopped),
                    Err(Failure::Io(error)) => Err(error),
                },
            };
            if let Err(why) = &built {
                for damage in damages {
                    let reason = format!("{}; no good copy: {why}", damage.reason);
                    let range = (damage.offset, damage.offset + damage.bytes);
                    self.bad(&space, &damage.path, range, Some(damage.lsn), &reason);
                }
                continue;
            }
            self.tally.found += damages.len() as u64;
            self.tally.healed += damages.len() as u64;
            tracing::warn!(%space, repaired = %path.display(), "a good copy was built");
            self.tally.repaired.push(RepairedFile {
                damaged: first.path.clone(),
                repaired: path,
                ranges: damages.iter().map(|damage| (damage.offset, damage.bytes)).collect(),
            });
        }
        Ok(())
    }

    /// Build a new file for the first bytes of one that is damaged. Looks for a
    /// stop, and keeps to the rate, with each piece.
    async fn build(
        &mut self,
        survey: &Survey,
        damages: &[&Damage],
        place: &Place,
        piece: &mut [u8],
        pace: &mut Pace,
    ) -> Result<Scratch, Failure> {
        let (Some(mender), Some(first)) = (self.mender.clone(), damages.first()) else {
            return Err(io::Error::other("nothing to build").into());
        };
        make_directories(&*mender.host, &mender.state_dir, &place.directory)?;
        has_room(mender.free_bytes, &place.directory, place.bytes)?;
        let host = mender.host;
        let old = match File::open(&first.path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let (new, scratch) = reserve(&host, &place.directory, &place.name)?;
        let mut new = Building { host, file: new, unsynced: 0 };
        let mut at = 0;
        for damage in damages {
            if let Some(old) = &old {
                self.copy((old, at, damage.offset), (&mut new, at), piece, pace).await?;
            }
            let (Some(fetched), Ok(from)) = (survey.scratch(), &damage.fetched) else {
                return Err(io::Error::other("what was fetched is gone").into());
            };
            let from = (fetched, *from, from + damage.bytes);
            self.copy(from, (&mut new, damage.offset), piece, pace).await?;
            at = damage.offset + damage.bytes;
        }
        if let Some(old) = &old {
            self.copy((old, at, place.bytes), (&mut new, at), piece, pace).await?;
        }
        new.host.set_len(&new.file, place.bytes)?;
        for seen in survey.seen.iter().filter(|(run, ..)| run.file == first.run.file) {
            self.check(&new.file, seen, piece).await?;
        }
        if !planted::is(Bug::MendedBeforeSync) {
            new.host.sync_all(&new.file)?;
        }
        Ok(scratch)
    }

    /// Copy `at..end` of a file to a new one.
    async fn copy(
        &mut self,
        (from, at, end): (&File, u64, u64),
        (new, to): (&mut Building, u64),
        piece: &mut [u8],
        pace: &mut Pace,
    ) -> Result<(), Failure> {
        let mut done = 0;
        while at + done < end {
            self.sleep(Duration::ZERO).await?;
            let most = usize::try_from(end - at - done).unwrap_or(usize::MAX).min(piece.len());
            let count = read_up_to(from, &mut piece[..most], at + done)?;
            if count == 0 {
                break;
            }
            new.write(&piece[..count], to + done)?;
            done += count as u64;
            self.sleep(pace.delay(count as u64, self.timer.now())).await?;
        }
        Ok(())
    }

    /// Verify a run of a new file, where it lies now: every record holds, and
    /// they are those that the look has come to.
    async fn check(
        &mut self,
        new: &File,
        (run, begin, end): &(Run, Mark, Mark),
        piece: &mut [u8],
    ) -> Result<(), Failure> {
        let mut verifier = Verifier::new(*begin, self.options.checksums);
        let bytes = end.lsn.bytes_since(begin.lsn);
        let mut done = 0;
        while done < bytes {
            self.sleep(Duration::ZERO).await?;
            let most = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(piece.len());
            let count = read_up_to(new, &mut piece[..most], run.offset + done)?;
            if count == 0 {
                break;
            }
            verifier.feed(&piece[..count]).map_err(io::Error::other)?;
            done += count as u64;
        }
        let mark = verifier.mark();
        if mark == *end {
            Ok(())
        } else {
            let why = format!(
                "the new file comes to lsn {} and chain {:?} in its run at {}, expected {} and {:?}",
                mark.lsn, mark.chain, run.offset, end.lsn, end.chain
            );
            Err(io::Error::other(why).into())
        }
    }
}

/// Where a file is built: its directory, what its name begins with, how long it
/// will be.
struct Place {
    directory: PathBuf,
    name: String,
    bytes: u64,
}

/// Why a file was not built.
enum Failure {
    Stopped,
    Io(io::Error),
}

impl From<Stopped> for Failure {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A file that is being built.
struct Building {
    host: Arc<dyn Host>,
    file: File,
    /// Bytes written since the last sync.
    unsynced: u64,
}

impl Building {
    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        // A gap between two runs stays one.
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        self.host.write_at(&self.file, bytes, at)?;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= MENDING_SYNC_BYTES {
            self.unsynced = 0;
            self.host.sync_data(&self.file)?;
        }
        Ok(())
    }
}

/// Whether a file of so many bytes leaves the log enough room.
fn has_room(free_bytes: FreeBytes, directory: &Path, bytes: u64) -> io::Result<()> {
    let free = free_bytes(directory)?;
    if free >= bytes.saturating_add(MENDING_FREE_BYTES) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::StorageFull,
        format!(
            "{} has {free} bytes free; the new file takes {bytes}, and {MENDING_FREE_BYTES} are \
             left to what is received: make room, then scrub again",
            directory.display()
        ),
    ))
}

/// A new file that will be called `<name>.<n>.new`, n being the first number
/// that nobody has used: neither for such a file nor for the damaged one, when it
/// gives way to it.
fn reserve(host: &Arc<dyn Host>, directory: &Path, name: &str) -> io::Result<(File, Scratch)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    for number in 0_u64.. {
        let path = directory.join(format!("{name}.{number:x}.new"));
        if path.with_extension("old").try_exists()? {
            continue;
        }
        match host.open(&options, &path) {
            Ok(file) => return Ok((file, Scratch { path, host: host.clone() })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("every name is taken"))
}

#[cfg(test)]
#[path = "mending_tests.rs"]
mod tests;
