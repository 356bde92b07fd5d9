//! Either end dies at any moment, and the next transfer resumes at the recorded offset.

use super::*;
use crate::sink::Checkpoint;
use crate::sys::Sys;
use crate::testing::{self, BLOCK, Piece};
use crate::wire::describe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const INTERVAL: u64 = 3 * BLOCK;

/// The length that a receiver writes down after each fsync.
struct Record(Arc<AtomicU64>);

impl Checkpoint for Record {
    fn reached(&mut self, durable: u64) -> Sys<()> {
        self.0.store(durable, Relaxed);
        Ok(())
    }
}

fn layout(random: &mut Random) -> Vec<Piece> {
    (0..4 + random.below(8))
        .map(|at| {
            let blocks = 1 + random.below(12);
            if at % 2 == 0 { Piece::Data(blocks) } else { Piece::Hole(blocks) }
        })
        .collect()
}

/// One attempt, which dies after this many turns. Returns whether it came to its end.
fn attempt(file: &File, copy: &File, record: &Arc<AtomicU64>, turns: u64) -> bool {
    let description = describe(file.as_raw_fd(), 0, 0).unwrap();
    let writer_options = WriterOptions {
        description,
        digest: true,
        resume: true,
        checkpoint_interval: BLOCK,
        ..WriterOptions::default()
    };
    let length = record.load(Relaxed);
    let mut held = held(copy, length);
    held.part.identity = description.identity;
    let reader_options = ReaderOptions { held: Some(held), ..ReaderOptions::default() };
    let ends = socket();
    let (mut writer, mut reader) = wire(&ends, &writer_options, &reader_options);
    let mut source = from(file);
    let mut sender = Moving::small(source.as_mut(), &mut writer);
    let start = loop {
        sender.turn();
        match reader.introduction() {
            Ok(introduction) => break introduction.start,
            Err(error) => assert!(error.would_block() || error.interrupted(), "{error}"),
        }
    };
    assert_eq!(start, length, "all that is held is kept");
    let options =
        sink::Options { offset: start, sync_interval: INTERVAL, ..sink::Options::default() };
    let mut sink = sink::from_fd(copy.as_raw_fd(), &options, Record(Arc::clone(record))).unwrap();
    let mut receiver = Moving::small(&mut reader, sink.as_mut());
    for _ in 0..turns {
        sender.turn();
        receiver.turn();
        if let (Some(sent), Some(received)) = (sender.result.clone(), receiver.result.clone()) {
            assert_eq!((sent, received), (Ok(()), Ok(())));
            return true;
        }
    }
    // At most what one piece can add to an interval is lost, and sent again.
    let lost = receiver.stats().position - record.load(Relaxed).max(start);
    assert!(lost <= INTERVAL + 12 * BLOCK, "{lost}");
    drop((sender, receiver));
    // Killed: the connection ends without a report.
    std::mem::forget((writer, reader, sink));
    false
}

#[test]
fn whatever_dies_when_the_next_goes_on_from_the_record() {
    let (mut broken, mut went_on) = (0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let file = testing::sparse(&layout(&mut random));
        let copy = testing::file();
        let record = Arc::new(AtomicU64::new(0));
        loop {
            let turns = 1 + random.below(40);
            if attempt(&file, &copy, &record, turns) {
                break;
            }
            broken += 1;
            went_on += usize::from(record.load(Relaxed) > 0);
            // Bytes that were not durable may be anything now.
            let size = copy.metadata().unwrap().len();
            if size > record.load(Relaxed) {
                let at = record.load(Relaxed) + random.below(size - record.load(Relaxed));
                let most = (size - at).min(100) as usize;
                copy.write_all_at(&random.bytes(most), at).unwrap();
            }
        }
        assert!(content(&file) == content(&copy), "seed {seed}");
    }
    assert!(broken > 100 && went_on > 50, "{broken} {went_on}");
}

#[test]
fn a_record_that_claims_too_much_is_found_out() {
    let file = testing::sparse(&[Piece::Data(20)]);
    let copy = testing::file();
    copy.write_all_at(&content(&file), 0).unwrap();
    copy.write_all_at(&[0; 512], 7 * BLOCK).unwrap();
    let ends = socket();
    let held = held(&copy, 10 * BLOCK);
    let (mut writer, mut reader) = wire(
        &ends,
        &WriterOptions { digest: true, resume: true, ..WriterOptions::default() },
        &ReaderOptions { held: Some(held), ..ReaderOptions::default() },
    );
    let (mut source, mut sink) = (from(&file), to(&copy));
    let mut sender = Moving::new(source.as_mut(), &mut writer);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    let (sent, received) = run(&mut sender, &mut receiver);
    assert_eq!(sent.unwrap_err().errno(), libc::ESTALE);
    assert_eq!(received.unwrap_err().errno(), libc::ESTALE);
}
