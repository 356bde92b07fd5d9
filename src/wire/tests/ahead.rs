//! How much a reader reads beyond the caller's buffer.

use super::*;
use crate::sys::Sys;
use crate::wait::Waiting;
use crate::wire::proto::frame::HEADER;
use crate::wire::transport::{Transport, Wants};
use std::sync::{Arc, Mutex};

/// A stream in memory, and how many bytes each read of it put into the caller's buffer and into the reader's own.
struct Recorded {
    stream: Vec<u8>,
    at: usize,
    reads: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl Transport for Recorded {
    fn reads(&self) -> bool {
        true
    }

    fn writes(&self) -> bool {
        false
    }

    fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> Sys<usize> {
        let rest = &self.stream[self.at..];
        let ours = rest.len().min(first.len());
        first[..ours].copy_from_slice(&rest[..ours]);
        let theirs = (rest.len() - ours).min(second.len());
        second[..theirs].copy_from_slice(&rest[ours..ours + theirs]);
        self.at += ours + theirs;
        self.reads.lock().unwrap().push((ours, theirs));
        Ok(ours + theirs)
    }

    fn write(&mut self, _first: &[u8], _second: &[u8]) -> Sys<usize> {
        Err(libc::EBADF)
    }

    fn close(&mut self) -> Sys<()> {
        Ok(())
    }

    fn waiting(&self, _wants: Wants) -> Waiting {
        Waiting::Owner
    }
}

/// Frames of this much data each, many times, read with a buffer of a length. Returns the reads of the transport.
fn read_frames(frame: usize, count: usize, buffer: usize) -> Vec<(usize, usize)> {
    let stored = crate::testing::file();
    let mut writer = writer_on(stored.as_raw_fd(), None, &WriterOptions::default()).unwrap();
    let data = Random::new(7).bytes(frame);
    announce(&mut writer, (frame * count) as u64).unwrap();
    for _ in 0..count {
        assert_eq!(writer.write(&data).unwrap(), frame);
    }
    writer.finish().unwrap();
    let reads = Arc::new(Mutex::new(Vec::new()));
    let recorded = Recorded { stream: content(&stored), at: 0, reads: Arc::clone(&reads) };
    let mut reader = Reader::new(Box::new(recorded), &ReaderOptions::default()).unwrap();
    let (mut bytes, mut came) = (vec![0; buffer], 0);
    loop {
        match reader.next(&mut bytes).unwrap() {
            Next::Data(count) => {
                let expected = data.iter().cycle().skip(came % frame).take(count);
                assert!(bytes[..count].iter().eq(expected));
                came += count;
            }
            Next::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(came, frame * count);
    let reads = reads.lock().unwrap();
    reads.clone()
}

#[test]
fn long_data_for_a_large_buffer_is_not_copied_once_more() {
    let frame = 128 << 10;
    let reads = read_frames(frame, 64, 1 << 20);
    let copied: usize = reads.iter().map(|(_, theirs)| theirs).sum();
    // The first frames were gathered before anybody had asked for them.
    assert!(copied <= (512 << 10) + 64 * HEADER, "{copied}");
    assert!(reads.len() < 2 * 64, "{}", reads.len());
}

#[test]
fn little_data_and_data_for_a_small_buffer_is_gathered() {
    for (frame, buffer) in [(4 << 10, 1 << 20), (128 << 10, 4 << 10)] {
        let reads = read_frames(frame, (4 << 20) / frame, buffer);
        assert!(reads.len() <= 4 * (4 << 20) / (256 << 10), "{frame} {buffer}: {}", reads.len());
    }
}
