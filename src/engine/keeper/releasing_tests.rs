//! What becomes of a pin that cannot be let go of.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::engine::keeper::Job;
use crate::engine::keeper::matched::tests::{Rig, alive};
use crate::state::host::Host;
use crate::state::meddler::{Call, Meddler};

/// The replicas were told that a segment was gone whose pin was still there, or
/// whose name could come back; and the pin stayed until the node was restarted.
#[track_caller]
fn is_told_when_it_is_gone(fails: fn(Call<'_>) -> bool) {
    let root = tempfile::tempdir().unwrap();
    let failing = Arc::new(AtomicBool::new(false));
    let seen = failing.clone();
    let host: Arc<dyn Host> = Arc::new(Meddler(move |call: Call<'_>| {
        let fails = seen.load(Ordering::SeqCst) && fails(call);
        if fails { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }));
    let mut rig = Rig::open(root.path(), &host);
    let space: SpaceId = "shipped".parse().unwrap();
    let wal = root.path().join("shipped/wal");
    fs::create_dir_all(&wal).unwrap();
    fs::write(wal.join("wal-0000000000000001.log"), b"one").unwrap();
    let scan = || Job::ScanSpace { shard: 0, space: space.clone() };
    rig.batch(vec![scan()]);
    let pin = rig.keeper.pins.path(&space, 1);
    assert!(pin.exists());
    let told = |news: &[News]| news.iter().any(|news| matches!(news, News::Released { .. }));
    let named = |news: &[News]| {
        let is = |why: &String| why.contains("000001 is kept") && why.contains("os error 5");
        let of =
            |news: &News| matches!(news, News::Space { problems, .. } if problems.iter().any(is));
        news.iter().any(of)
    };

    failing.store(true, Ordering::SeqCst);
    let news = rig.batch(vec![Job::Release { shard: 0, space: space.clone(), file: 1 }]);
    assert!(pin.exists() && !told(&news), "{news:?}");
    assert!(named(&news), "{news:?}");
    assert!(named(&rig.batch(vec![scan()])), "for as long as it is so");
    rig.keeper.mend();
    let news = rig.batch(vec![]);
    assert!(pin.exists() && news.is_empty() && rig.keeper.needs_mending(), "{news:?}");

    failing.store(false, Ordering::SeqCst);
    rig.keeper.mend();
    assert!(!pin.exists() && told(&rig.batch(vec![])));
    assert!(!rig.keeper.needs_mending());
    assert!(!named(&rig.batch(vec![scan()])));
}

#[test]
fn a_pin_that_cannot_be_removed_is_tried_again_and_nobody_is_told_before() {
    is_told_when_it_is_gone(|call| {
        let of_pin = |path: &Path| path.to_string_lossy().contains("/pins/shipped/");
        matches!(call, Call::Remove(path) if of_pin(path))
    });
}

#[test]
fn a_pin_whose_file_may_get_its_name_back_is_kept_until_it_cannot() {
    is_told_when_it_is_gone(
        |call| matches!(call, Call::SyncDirectory(path) if path.ends_with("shipped/wal")),
    );
}

/// The directory of the name is not there, and neither is the pin: both come back.
#[test]
fn while_the_data_root_is_away_no_pin_is_taken_for_removed() {
    let top = tempfile::tempdir().unwrap();
    let (root, away) = (top.path().join("root"), top.path().join("away"));
    fs::create_dir(&root).unwrap();
    let mut rig = Rig::open(&root, &alive());
    let space: SpaceId = "shipped".parse().unwrap();
    let wal = root.join("shipped/wal");
    fs::create_dir_all(&wal).unwrap();
    fs::write(wal.join("wal-0000000000000001.log"), b"one").unwrap();
    rig.batch(vec![Job::ScanSpace { shard: 0, space: space.clone() }]);
    let pin = rig.keeper.pins.path(&space, 1);
    let told = |news: &[News]| news.iter().any(|news| matches!(news, News::Released { .. }));
    fs::rename(&root, &away).unwrap();
    let news = rig.batch(vec![Job::Release { shard: 0, space, file: 1 }]);
    assert!(!told(&news) && rig.keeper.needs_mending(), "{news:?}");
    fs::rename(&away, &root).unwrap();
    assert!(pin.exists());
    rig.keeper.mend();
    assert!(!pin.exists() && told(&rig.batch(vec![])));
}
