//! Bytes as they come over a connection: cut into frames, decoded.
//!
//! An input is a list of pieces: raw bytes, headers whose checksum is made to
//! hold, and control frames whose header and checksums are made to hold.

use saltus::engine::inbox::{Inbox, Step};
use saltus::ids::Epoch;
use saltus::io::SlabPool;
use saltus::limits::{CONTROL_SLAB_BYTES, FRAME_HEADER_BYTES, SLAB_BYTES};
use saltus::protocol::frame::{FrameHeader, Handle, Kind, MAGIC, VERSION};
use saltus::protocol::message::Message;

use super::input::Input;

/// More than a few frames of any kind.
const MOST_WIRE_BYTES: usize = 256 << 10;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let settings = usize::from(input.byte());
    let step = settings * 16 + 1;
    let wire = wire(&mut input);
    // A primary takes no data, and its slabs are too small for it.
    let primary = settings % 2 == 0;
    let slab_bytes = if primary { CONTROL_SLAB_BYTES } else { SLAB_BYTES };
    let mut inbox = Inbox::new(SlabPool::new(3, slab_bytes));
    let mut at = 0;
    loop {
        match inbox.step() {
            Ok(Step::Header(header)) => {
                assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
                if primary && header.kind == Kind::Data {
                    return;
                }
            }
            Ok(Step::Frame(header, range, _)) => {
                let body = inbox.payload(range);
                assert_eq!(body.len(), header.payload_bytes as usize);
                decode(&header, body);
            }
            Ok(Step::Receive { mut slab, low_water, most }) => {
                assert!(low_water >= 1 && low_water <= most && most <= slab.spare());
                if at == wire.len() {
                    return;
                }
                let bytes = step.clamp(1, most).min(wire.len() - at);
                slab.push(&wire[at..at + bytes]);
                at += bytes;
                inbox.received(slab);
            }
            // Where one frame begins is not known any longer.
            Err(_) | Ok(Step::Starved) => return,
        }
    }
}

/// A message that is decoded is encoded to the same message.
fn decode(header: &FrameHeader, body: &[u8]) {
    let Ok(Some(message)) = Message::decode(header, body) else { return };
    let mut bytes = Vec::new();
    message.encode(header.handle, header.epoch, &mut bytes);
    let (again, body) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
    let again = FrameHeader::decode(again).unwrap();
    assert_eq!(Message::decode(&again, body).unwrap(), Some(message));
}

fn wire(input: &mut Input<'_>) -> Vec<u8> {
    let mut wire = Vec::new();
    while let Some(piece) = input.next() {
        match piece % 3 {
            0 => {
                let bytes = input.byte();
                wire.extend(input.take(usize::from(bytes)));
            }
            1 => {
                let mut header: [u8; FRAME_HEADER_BYTES] = input.array();
                header[..4].copy_from_slice(&MAGIC.to_le_bytes());
                header[4] = VERSION;
                let crc = crc32c::crc32c(&header[..60]);
                header[60..].copy_from_slice(&crc.to_le_bytes());
                wire.extend(header);
            }
            _ => {
                let (header, body) = control(input);
                wire.extend(header.encode());
                wire.extend(body);
            }
        }
        if wire.len() > MOST_WIRE_BYTES {
            break;
        }
    }
    wire
}

/// A control frame, whose checksums hold: kind, handle, epoch, length, body.
pub fn control<'a>(input: &mut Input<'a>) -> (FrameHeader, &'a [u8]) {
    let kind = Kind::from_wire(input.byte() % 24).unwrap_or(Kind::Heartbeat);
    let handle = match input.byte() {
        255 => Handle::CONNECTION,
        number => Handle(u32::from(number % 4)),
    };
    let epoch = Epoch(u64::from(input.byte() % 4));
    let bytes = input.u16();
    let body = input.take(usize::from(bytes));
    let bytes = u32::try_from(body.len()).unwrap();
    let header = FrameHeader {
        payload_bytes: bytes,
        raw_bytes: bytes,
        ..FrameHeader::bare(kind, handle, epoch)
    };
    (header.with_payload_crc(crc32c::crc32c(body)), body)
}
