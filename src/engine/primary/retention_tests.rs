//! Facts about segments without a name: who holds them, and when they go.

use super::*;
use crate::limits::RELEASE_PROBE_AFTER;

/// Both names are gone, and a snapshot stands there instead. The writer has
/// closed the first one, and goes on with the second one.
#[test]
fn only_what_nobody_writes_is_held_by_slots_alone() {
    let mut bed = Bed::new(&[]);
    for number in [1, 2, 3] {
        bed.write(number, &record(0, b"one"));
        bed.found(number);
    }
    let writer = OpenOptions::new().append(true).open(bed.path(2)).unwrap();
    bed.walk();
    bed.space.vanished(name(1));
    bed.space.vanished(name(2));
    assert!(bed.space.spare(bed.now).is_empty(), "they grew a moment ago");
    let later = bed.now + RELEASE_PROBE_AFTER;
    assert_eq!(bed.space.spare(later), [1].into());
    drop(writer);
    assert_eq!(bed.space.spare(later), [1, 2].into());
    bed.write(2, &record(1, b"two"));
    assert_eq!(bed.space.spare(later), [1].into(), "not all of it was walked");
}
