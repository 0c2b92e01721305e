#![allow(clippy::unwrap_used, unsafe_code)]

use std::io::Write;

use super::*;

const BYTES: usize = 64 << 10;

/// A file in one large page, perhaps, and what it holds. Not in /tmp: a file
/// system in memory is always cached.
fn synced() -> (tempfile::NamedTempFile, Vec<u8>) {
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let content: Vec<u8> = (0..BYTES + 777).map(|at| (at % 251).to_le_bytes()[0]).collect();
    file.write_all(&content).unwrap();
    file.as_file().sync_data().unwrap();
    (file, content)
}

fn read_all(disk: &DiskFile, mut at: usize, most: usize) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), vec![0; most]);
    loop {
        let count = disk.read_at(&mut piece, at as u64).unwrap();
        if count == 0 {
            return all;
        }
        all.extend_from_slice(&piece[..count]);
        at += count;
    }
}

/// The records behind a checkpoint begin in the midst of a page. A sync had
/// failed, and what was read again were the bytes that the kernel remembered.
#[test]
fn what_is_read_from_within_a_page_on_is_not_read_from_memory() {
    for from in [1, 4095, 4096, 20_580, BYTES + 776] {
        let (file, content) = synced();
        if cached_pages(file.as_file(), 0, 1).is_none() || is_in_memory(file.as_file()) {
            return; // An old kernel, or no disk.
        }
        let disk = DiskFile::new(file.reopen().unwrap(), file.path(), from as u64).unwrap();
        assert_eq!(cached_pages(file.as_file(), 0, 0), Some(0), "from {from} on");
        assert!(disk.direct.is_none());
        assert!(read_all(&disk, from, 10_000) == content[from..]);
        assert_eq!(disk.bytes().unwrap(), content.len() as u64);
    }
}

#[test]
fn pages_that_are_mapped_are_read_past_the_cache() {
    let (file, content) = synced();
    let (from, disk) = (20_580, file.reopen().unwrap());
    // SAFETY: the file does not change as long as the map lives.
    let map = unsafe { memmap2::Mmap::map(file.as_file()) }.unwrap();
    assert!(map[..] == content[..]);
    if !matches!(drop_cache(&disk, from), Ok(Kept::Pages(1..))) {
        return; // An old kernel, or no disk.
    }
    assert!(matches!(forget_all(&disk), Err(DiskError::Cached { pages: 1.. })));
    match DiskFile::new(disk, file.path(), from) {
        Err(DiskError::Cached { .. }) => {
            assert!(crate::io::open_direct_reader(file.path()).is_none());
        }
        other => {
            let disk = other.unwrap();
            assert!(disk.direct.is_some());
            for most in [1 << 12, 5000, 3 << 20] {
                assert!(read_all(&disk, 0, most) == content);
                assert!(read_all(&disk, 20_580, most) == content[20_580..]);
                assert!(read_all(&disk, content.len(), most).is_empty());
            }
        }
    }
    drop(map);
}
