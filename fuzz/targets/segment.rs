//! The bytes of a segment, from pieces, and a file that holds them.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use saltus::wal::record::Header;

use super::input::Input;

/// More than a map and a search take at a time.
const MOST_BYTES: usize = 3 << 20;

/// A segment as a writer, a crash, a full disk and time may leave it.
pub fn compose(input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sequence = 0;
    while let Some(piece) = input.next() {
        match piece % 8 {
            // A record.
            0 | 1 => {
                let payload = payload(input);
                bytes.extend(record(sequence, &payload));
                sequence += 1;
            }
            // The beginning of one.
            2 => {
                let payload = payload(input);
                let record = record(sequence, &payload);
                let keep = usize::from(input.u16()) % (record.len() + 1);
                bytes.extend(&record[..keep]);
            }
            // One with a byte changed.
            3 => {
                let payload = payload(input);
                let mut record = record(sequence, &payload);
                let at = usize::from(input.u16()) % record.len();
                record[at] ^= input.byte() | 1;
                bytes.extend(record);
            }
            // A header that holds, whatever it says.
            4 => {
                let header = Header {
                    sequence: input.u64(),
                    timestamp_ns: input.u64(),
                    entry_type: input.u32(),
                    payload_bytes: input.u32(),
                    payload_crc: input.u32(),
                    checksummed: !input.byte().is_multiple_of(4),
                };
                bytes.extend(header.encode());
            }
            // A record of a build without checksums.
            5 => {
                let payload = payload(input);
                let header = Header::new(sequence, 1, 1, &payload).unwrap();
                bytes.extend(Header { checksummed: false, ..header }.encode());
                bytes.extend(payload);
            }
            // Zeroes.
            6 => bytes.resize(bytes.len() + usize::from(input.u16()) * 4, 0),
            // Anything.
            _ => {
                let most = usize::from(input.byte());
                bytes.extend(input.take(most));
            }
        }
        if bytes.len() > MOST_BYTES {
            bytes.truncate(MOST_BYTES);
            break;
        }
    }
    bytes
}

/// A few bytes as they are, or many of one kind.
fn payload(input: &mut Input<'_>) -> Vec<u8> {
    let bytes = usize::from(input.u16());
    if bytes < 512 { input.take(bytes).to_vec() } else { vec![input.byte(); bytes * 2] }
}

fn record(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header::new(sequence, 1_000 + sequence, 1, payload).unwrap();
    [header.encode().as_slice(), payload].concat()
}

/// Where files of a run go: memory, where there is a file system in memory.
pub fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).unwrap()
}

/// An open file of these bytes.
pub fn file_of(bytes: &[u8]) -> File {
    let memory = Path::new("/dev/shm");
    let file = if memory.is_dir() { tempfile::tempfile_in(memory) } else { tempfile::tempfile() };
    let mut file = file.unwrap();
    file.write_all(bytes).unwrap();
    file
}
