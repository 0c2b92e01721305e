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
use std::path::Path;
use std::sync::Arc;

use super::stream::{Damage, Survey};
use super::{BadRange, Pass, Stopped};
use crate::engine::keeper::{Built, Ground, Scratch};
use crate::engine::status::RepairedFile;
use crate::engine::verifier::Verifier;
use crate::lsn::Mark;
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
            match self.build(
                &survey,
                damages,
                (&directory, &format!("{file:016x}")),
                bytes,
                piece,
            )? {
                Ok(scratch) => built.push(Built { file: *file, scratch, bytes }),
                Err(error) => {
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
        // Bytes of no stream: they were fetched, or copied.
        if let Some(mender) = &self.mender
            && survey.scratch().is_some()
            && let Err(error) = mender.host.remove(&self.scratch_directory(&space).join("fetched"))
        {
            tracing::warn!(%space, %error, "a scratch file is left behind");
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
    pub(super) fn repair(&mut self, survey: &Survey, piece: &mut [u8]) -> Result<(), Stopped> {
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
            let end = survey.reach(first.run.file).max(size);
            let missing = damages.iter().find_map(|damage| damage.fetched.as_ref().err());
            let built = match missing {
                Some(why) => Err(io::Error::other(why.clone())),
                None => self
                    .build(
                        survey,
                        damages,
                        (&directory, &first.run.segment.to_string()),
                        end,
                        piece,
                    )?
                    .and_then(|scratch| mender.host.rename(&scratch.path, &path))
                    .and_then(|()| mender.host.sync_directory(&directory)),
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
        if survey.scratch().is_some()
            && let Err(error) = mender.host.remove(&self.scratch_directory(&space).join("fetched"))
        {
            tracing::warn!(%space, %error, "a scratch file is left behind");
        }
        Ok(())
    }

    /// Build a new file for the first `end` bytes of one that is damaged, in a
    /// directory, under a name that begins so and that nobody has.
    fn build(
        &mut self,
        survey: &Survey,
        damages: &[&Damage],
        (directory, name): (&Path, &str),
        end: u64,
        piece: &mut [u8],
    ) -> Result<io::Result<Scratch>, Stopped> {
        let (Some(mender), Some(first)) = (self.mender.clone(), damages.first()) else {
            return Ok(Err(io::Error::other("nothing to build")));
        };
        let open = || -> io::Result<(Option<File>, File, Scratch)> {
            make_directories(&*mender.host, &mender.state_dir, directory)?;
            let old = match File::open(&first.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let (new, scratch) = reserve(&mender.host, directory, name)?;
            Ok((old, new, scratch))
        };
        let (old, new, scratch) = match open() {
            Ok(files) => files,
            Err(error) => return Ok(Err(error)),
        };
        let host = &*mender.host;
        let mut copy = |from: &File, at: u64, end: u64, to: u64| -> io::Result<()> {
            let mut done = 0;
            while at + done < end {
                let most = usize::try_from(end - at - done).unwrap_or(usize::MAX).min(piece.len());
                let count = read_up_to(from, &mut piece[..most], at + done)?;
                if count == 0 {
                    break;
                }
                // A gap between two runs stays one.
                if piece[..count].iter().any(|byte| *byte != 0) {
                    host.write_at(&new, &piece[..count], to + done)?;
                }
                done += count as u64;
            }
            Ok(())
        };
        let mut build = || -> io::Result<()> {
            let mut at = 0;
            for damage in damages {
                if let Some(old) = &old {
                    copy(old, at, damage.offset, at)?;
                }
                let (Some(scratch), Ok(place)) = (survey.scratch(), &damage.fetched) else {
                    return Err(io::Error::other("what was fetched is gone"));
                };
                copy(scratch, *place, place + damage.bytes, damage.offset)?;
                at = damage.offset + damage.bytes;
            }
            if let Some(old) = &old {
                copy(old, at, end, at)?;
            }
            host.set_len(&new, end)
        };
        if let Err(error) = build() {
            return Ok(Err(error));
        }
        for seen in survey.seen.iter().filter(|(run, ..)| run.file == first.run.file) {
            if let Err(error) = self.check(&new, seen, piece) {
                return Ok(Err(error));
            }
        }
        if let Err(error) = mender.host.sync_all(&new) {
            return Ok(Err(error));
        }
        if self.signals.borrow().stop {
            return Err(Stopped);
        }
        Ok(Ok(scratch))
    }

    /// Verify a run of a new file, where it lies now: every record holds, and
    /// they are those that the look has come to.
    fn check(
        &self,
        new: &File,
        (run, begin, end): &(Run, Mark, Mark),
        piece: &mut [u8],
    ) -> io::Result<()> {
        let mut verifier = Verifier::new(*begin, self.options.checksums);
        let bytes = end.lsn.bytes_since(begin.lsn);
        let mut done = 0;
        while done < bytes {
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
            Err(io::Error::other(format!(
                "the new file comes to lsn {} and chain {:?} in its run at {}, expected {} and {:?}",
                mark.lsn, mark.chain, run.offset, end.lsn, end.chain
            )))
        }
    }
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
