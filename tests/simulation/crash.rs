//! What a machine's disk holds after its power went.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::chance::Chance;
use super::disk::{Disk, FileId, SECTOR};
use super::names::{Entry, Names, apply, prune};

impl Disk {
    /// The power goes. Of what was not synced, a random part survives.
    pub fn crash(&mut self) {
        let mut chance = self.chance.fork();
        let keep_percent = *chance.pick(&[0, 10, 50, 90, 100]);
        // A disk tears between sectors, a file system between pages.
        let granule = *chance.pick(&[1, 8]);
        self.note(|| format!("crash: {keep_percent} % survive, granules of {granule} sectors"));

        let mut target = self.durable.clone();
        let mut dropped: HashSet<PathBuf> = HashSet::new();
        for change in std::mem::take(&mut self.pending) {
            let directories = change.directories();
            let behind = directories.iter().any(|directory| dropped.contains(*directory));
            if behind || !chance.percent(keep_percent) {
                dropped.extend(directories.into_iter().map(Path::to_path_buf));
            } else {
                apply(&mut target, &change);
            }
        }
        prune(&mut target);
        for id in 0..self.contents.len() {
            self.crash_content(id, &mut chance, keep_percent, granule);
        }
        self.realise(target);
    }

    fn crash_content(&mut self, id: FileId, chance: &mut Chance, keep: u64, granule: u64) {
        self.show_lost(id);
        let content = &mut self.contents[id];
        let mut decided: Option<(u64, bool)> = None;
        let mut gone = Vec::new();
        for (sector, old) in std::mem::take(&mut content.undo) {
            let survives = match decided {
                Some((of, survives)) if of == sector / granule => survives,
                _ => chance.percent(keep),
            };
            decided = Some((sector / granule, survives));
            if !survives {
                gone.push((sector, old));
            }
        }
        // Lengths are journalled: a file has one that it had. Only growth by
        // writes can be there in part.
        let mut len = content.durable_len;
        for (next, written) in std::mem::take(&mut content.lengths) {
            if !chance.percent(keep.max(30)) {
                if written && chance.percent(50) {
                    len = chance.within(len.min(next), next);
                }
                break;
            }
            len = next;
        }
        content.file.set_len(len).unwrap();
        for (sector, old) in gone {
            let at = sector * SECTOR;
            let most = usize::try_from(len.saturating_sub(at).min(SECTOR)).unwrap();
            content.file.write_all_at(&old[..most], at).unwrap();
            content.flips.sector_is_back(sector);
        }
        content.flips.crashed(len);
        content.durable_len = len;
    }

    /// Make the real directories what `target` says.
    fn realise(&mut self, target: Names) {
        // Every file that changes its names has one in the attic meanwhile.
        let mut moved: HashSet<FileId> = HashSet::new();
        for (directory, names) in self.live.iter().chain(&target) {
            let live = self.live.get(directory);
            let wanted = target.get(directory);
            for name in names.keys() {
                let pair = [live.and_then(|n| n.get(name)), wanted.and_then(|n| n.get(name))];
                if pair[0] != pair[1] {
                    for entry in pair.into_iter().flatten() {
                        if let Entry::File(id) = entry {
                            moved.insert(*id);
                        }
                    }
                }
            }
        }
        for (directory, names) in &self.live {
            for (name, entry) in names {
                if let Entry::File(id) = entry
                    && moved.contains(id)
                    && !self.attic(*id).exists()
                {
                    fs::hard_link(self.root.join(directory).join(name), self.attic(*id)).unwrap();
                }
            }
        }
        for (directory, names) in self.live.iter().rev() {
            for (name, entry) in names.iter().rev() {
                let path = self.root.join(directory).join(name);
                if target.get(directory).and_then(|n| n.get(name)) != Some(entry) {
                    match entry {
                        Entry::File(_) => fs::remove_file(&path).unwrap(),
                        Entry::Directory => fs::remove_dir(&path).unwrap(),
                    }
                }
            }
        }
        for (directory, names) in &target {
            for (name, entry) in names {
                let path = self.root.join(directory).join(name);
                if self.live.get(directory).and_then(|n| n.get(name)) != Some(entry) {
                    match entry {
                        Entry::File(id) => fs::hard_link(self.attic(*id), &path).unwrap(),
                        Entry::Directory => fs::create_dir(&path).unwrap(),
                    }
                }
            }
        }
        for entry in fs::read_dir(self.root.join("attic")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        self.live = target.clone();
        self.durable = target;
    }
}
