#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::ids::Epoch;
use crate::limits::{CONTROL_SLAB_BYTES, MAX_EXTENT_BYTES, MAX_FRAME_PAYLOAD_BYTES};
use crate::protocol::frame::{Handle, Kind};

/// One frame, and where its receiver wants it.
#[derive(Clone, Debug)]
struct Wanted {
    bytes: usize,
    /// The offset within a block, and whether the bytes before it are carried.
    place: Option<(usize, bool)>,
}

fn plain(bytes: usize) -> Wanted {
    Wanted { bytes, place: None }
}

/// A pattern of a prime period, long enough for every frame at every phase.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    (0..251).collect::<Vec<u8>>().repeat(MAX_FRAME_PAYLOAD_BYTES as usize / 251 + 2)
});

/// Bytes that tell of which frame they are, and where in it they lie.
fn payload(index: usize, bytes: usize) -> &'static [u8] {
    &PATTERN[index * 7 % 251..][..bytes]
}

fn carry(index: usize, bytes: usize) -> Vec<u8> {
    vec![u8::try_from(index % 200).unwrap() + 1; bytes]
}

fn wire(frames: &[Wanted]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let mut header = FrameHeader::bare(Kind::Data, Handle(7), Epoch::FIRST);
        header.payload_bytes = u32::try_from(frame.bytes).unwrap();
        bytes.extend(header.encode());
        bytes.extend(payload(index, frame.bytes));
    }
    bytes
}

/// What a run through an inbox came to.
#[derive(Debug, Default)]
struct Came {
    frames: usize,
    placed: usize,
    starved: usize,
}

/// Receive `frames` with `pool`, in pieces of the size that `split` chooses,
/// while up to `held` payloads are with the disk.
fn receive(
    frames: &[Wanted],
    pool: SlabPool,
    held: usize,
    mut split: impl FnMut(usize, usize) -> usize,
) -> Came {
    let wire = wire(frames);
    let mut inbox = Inbox::new(pool);
    let mut came = Came::default();
    let mut at = 0;
    let mut disk: VecDeque<(usize, Slice)> = VecDeque::new();
    let check = |(index, slice): (usize, Slice)| {
        let frame: &Wanted = &frames[index];
        assert!(slice.as_ref() == payload(index, frame.bytes), "frame {index} has changed");
    };
    loop {
        match inbox.step().unwrap() {
            Step::Header(header) => {
                assert_eq!(header.payload_bytes as usize, frames[came.frames].bytes);
                assert_eq!(inbox.awaiting(), Some(&header));
                if let Some((offset, carried)) = frames[came.frames].place {
                    let bytes = if carried { offset } else { 0 };
                    inbox.place(offset, carry(came.frames, bytes));
                }
            }
            Step::Frame(_, range, placed) => {
                let index = came.frames;
                let expected = payload(index, frames[index].bytes);
                assert!(inbox.payload(range.clone()) == expected, "frame {index} differs");
                let slice = inbox.slice(range.clone()).unwrap();
                if placed {
                    let (offset, carried) = frames[index].place.unwrap();
                    let memory = slice.as_ref().as_ptr() as usize;
                    assert_eq!(memory % DIRECT_BLOCK_BYTES, offset, "frame {index} lies askew");
                    if carried {
                        let before = inbox.slice(range.start - offset..range.start).unwrap();
                        assert_eq!(before.as_ref(), carry(index, offset), "the carry is lost");
                    }
                    came.placed += 1;
                }
                came.frames += 1;
                if held > 0 {
                    disk.push_back((index, slice));
                }
                while disk.len() > held {
                    check(disk.pop_front().unwrap());
                }
            }
            Step::Receive { mut slab, low_water, most } => {
                assert!(low_water >= 1 && low_water <= most, "{low_water} of {most}");
                assert!(most <= slab.spare(), "{most} do not fit into {}", slab.spare());
                if at == wire.len() {
                    break;
                }
                let bytes = split(low_water, most).clamp(1, most).min(wire.len() - at);
                slab.push(&wire[at..at + bytes]);
                at += bytes;
                inbox.received(slab);
            }
            Step::Starved => {
                came.starved += 1;
                check(disk.pop_front().expect("starved, and no write is in flight"));
            }
        }
    }
    disk.into_iter().for_each(check);
    assert_eq!(came.frames, frames.len());
    came
}

#[test]
fn a_frame_may_be_cut_by_the_end_of_a_slab_at_every_byte() {
    for bytes in [0, 1, 63, 100] {
        for before_end in 0..=FRAME_HEADER_BYTES + bytes + FRAME_HEADER_BYTES {
            let filler = CONTROL_SLAB_BYTES - before_end - FRAME_HEADER_BYTES;
            let filler = [filler / 2, filler - filler / 2 - FRAME_HEADER_BYTES];
            let frames = [plain(filler[0]), plain(filler[1]), plain(bytes), plain(3), plain(0)];
            for held in [0, 1] {
                receive(&frames, SlabPool::new(3, CONTROL_SLAB_BYTES), held, |_, most| most);
            }
        }
    }
}

#[test]
fn a_frame_may_arrive_byte_by_byte() {
    let frames = [plain(0), plain(1), plain(200), plain(64), plain(0), plain(0)];
    receive(&frames, SlabPool::new(2, CONTROL_SLAB_BYTES), 0, |_, _| 1);
}

#[test]
fn a_large_frame_is_placed_and_brings_the_next_header_along() {
    let full = MAX_EXTENT_BYTES as usize;
    for (offset, carried) in [(0, true), (1, true), (4095, true), (4095, false), (2048, false)] {
        let large = Wanted { bytes: full, place: Some((offset, carried)) };
        let frames = vec![large; 5];
        let came = receive(&frames, SlabPool::new(4, SLAB_BYTES), 1, |low, _| low);
        assert_eq!((came.placed, came.starved), (5, 0), "at {offset}");
        let came = receive(&frames, SlabPool::new(4, SLAB_BYTES), 1, |_, most| most);
        // Only what follows a frame that came whole is not worth placing.
        assert!(came.placed >= 4, "at {offset}: {came:?}");
    }
}

#[test]
fn what_has_come_with_its_successors_stays_where_it_is() {
    let place = Some((5, true));
    let frames = [plain(10), Wanted { bytes: 300 << 10, place }, plain(10), plain(10)];
    let came = receive(&frames, SlabPool::new(2, SLAB_BYTES), 0, |_, most| most);
    assert_eq!(came.placed, 0);
}

#[test]
fn a_record_larger_than_a_slab_gets_memory_of_its_own() {
    let largest = MAX_FRAME_PAYLOAD_BYTES as usize;
    for place in [None, Some((0, true)), Some((4095, true)), Some((17, false))] {
        let frames =
            [plain(100), Wanted { bytes: largest, place }, plain(100), plain(400 << 10), plain(5)];
        let came = receive(&frames, SlabPool::new(3, SLAB_BYTES), 1, |low, _| low);
        assert_eq!(came.placed, usize::from(place.is_some()));
    }
}

#[test]
fn starved_it_waits_for_the_disk_and_resumes() {
    let large = Wanted { bytes: MAX_EXTENT_BYTES as usize, place: Some((77, true)) };
    let frames = [vec![plain(500); 3], vec![large; 12], vec![plain(1500); 4000]].concat();
    for slabs in [2, 4] {
        let came = receive(&frames, SlabPool::new(slabs, SLAB_BYTES), usize::MAX, |_, most| most);
        assert!(came.starved > 0, "{slabs} slabs");
    }
}

#[test]
fn records_larger_than_a_slab_wait_for_each_other() {
    let largest = Wanted { bytes: 3 << 20, place: Some((77, true)) };
    let frames = [vec![largest; 4], vec![plain(3 << 20); 4]].concat();
    let pool = SlabPool::new(3, SLAB_BYTES);
    let came = receive(&frames, pool.clone(), usize::MAX, |_, most| most);
    assert!(came.starved >= 4, "{came:?}");
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn what_is_no_frame_ends_the_stream() {
    let mut inbox = Inbox::new(SlabPool::new(2, CONTROL_SLAB_BYTES));
    let Step::Receive { mut slab, .. } = inbox.step().unwrap() else { unreachable!() };
    slab.push(&[b'G'; FRAME_HEADER_BYTES]);
    inbox.received(slab);
    assert!(matches!(inbox.step(), Err(FrameError::Magic { .. })));
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let place = (0..DIRECT_BLOCK_BYTES, any::<bool>());
    let large = (LARGE_BYTES..600 << 10, proptest::option::weighted(0.8, place.clone()))
        .prop_map(|(bytes, place)| Wanted { bytes, place });
    let full =
        place.prop_map(|place| Wanted { bytes: MAX_EXTENT_BYTES as usize, place: Some(place) });
    prop_oneof![
        8 => (0..300_usize).prop_map(plain),
        4 => (300..90_000_usize).prop_map(plain),
        4 => large,
        1 => full,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_received_is_what_was_sent(
        frames in proptest::collection::vec(wanted(), 1..24),
        splits in proptest::collection::vec((any::<bool>(), 1..200_000_usize), 1..32),
        slabs in 2..6_usize,
        held in 0..20_usize,
    ) {
        let mut splits = splits.into_iter().cycle();
        receive(&frames, SlabPool::new(slabs, SLAB_BYTES), held, |low, most| {
            match splits.next().unwrap() {
                (true, _) => low,
                (false, bytes) => bytes.min(most),
            }
        });
    }
}

/// The low water mark of the `Receive` behind the header of a large frame.
fn low_water_of_a_large_frame(pace: Option<Duration>) -> usize {
    let wire = wire(&[plain(1 << 20)]);
    let mut inbox = Inbox::new(SlabPool::new(4, SLAB_BYTES));
    if let Some(took) = pace {
        inbox.pace(took);
    }
    let Step::Receive { mut slab, .. } = inbox.step().unwrap() else { panic!("nothing is here") };
    slab.push(&wire[..FRAME_HEADER_BYTES]);
    inbox.received(slab);
    assert!(matches!(inbox.step().unwrap(), Step::Header(_)));
    inbox.place(0, Vec::new());
    match inbox.step().unwrap() {
        Step::Receive { low_water, .. } => low_water,
        other => panic!("a payload is awaited, not {other:?}"),
    }
}

#[test]
fn a_peer_is_listened_to_in_small_pieces_until_it_has_shown_that_it_is_quick() {
    assert_eq!(low_water_of_a_large_frame(None), MIN_LOW_WATER_BYTES);
    assert_eq!(low_water_of_a_large_frame(Some(QUICK_FRAME)), MIN_LOW_WATER_BYTES);
    assert_eq!(low_water_of_a_large_frame(Some(QUICK_FRAME / 2)), 1 << 20);
}
