//! Random operations of a sink, of a source and of a transfer against a model: a vector of bytes.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sparsestream::end::Next;
use sparsestream::section::Kind;
use sparsestream::transfer::{self, Patience, Progress, Sparse, Transfer};
use sparsestream::{sink, source};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

#[derive(Debug, Arbitrary)]
struct Input {
    sinks: Vec<Pass>,
    source: Range,
    steps: Vec<Step>,
    copy: Copy,
}

/// One sink over the file, from its making to its end.
#[derive(Debug, Arbitrary)]
struct Pass {
    offset: u32,
    length: Option<u32>,
    truncate: bool,
    sync_interval: u16,
    puts: Vec<Put>,
    finish: bool,
}

#[derive(Debug, Arbitrary)]
enum Put {
    Data { length: u16, value: u8 },
    Hole { length: u32 },
    Keep { length: u32 },
}

#[derive(Debug, Arbitrary)]
struct Range {
    offset: u32,
    length: u32,
    ignore_map: bool,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Read { length: u16 },
    Section,
    Skip { length: u32 },
    Peek { most: u32, first: u16, block: u16 },
}

#[derive(Debug, Arbitrary)]
struct Copy {
    sparse: u8,
    detect_zeroes: bool,
    buffer_size: u16,
    budget: Option<u16>,
    over_old_content: bool,
}

/// No file of the model is longer.
const MOST: u64 = 4 << 20;

fn file(name: &str) -> File {
    let path =
        std::env::temp_dir().join(format!("sparsestream-model-{}-{name}", std::process::id()));
    let file =
        File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Fills a sink and the model alike.
fn fill(file: &File, model: &mut Vec<u8>, pass: &Pass) {
    let start = u64::from(pass.offset) % MOST;
    let length = pass.length.map_or(0, |length| u64::from(length) % MOST);
    let options = sink::Options {
        offset: start,
        length,
        truncate: pass.truncate,
        sync_interval: pass.sync_interval.into(),
        ..sink::Options::default()
    };
    let mut sink = sink::from_fd(file.as_raw_fd(), &options, ()).unwrap();
    let limit = if length == 0 { u64::MAX } else { start + length };
    let opened_size = model.len() as u64;
    let mut at = start;
    for put in &pass.puts {
        if at > MOST {
            break;
        }
        match *put {
            Put::Data { length, value } if length > 0 => {
                let bytes = vec![value; length.into()];
                match sink.write(&bytes) {
                    Ok(count) => {
                        assert!(count > 0 && at + count as u64 <= limit);
                        let end = at as usize + count;
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].fill(value);
                        at = end as u64;
                    }
                    Err(error) => {
                        assert_eq!((error.errno(), at), (libc::EFBIG, limit));
                    }
                }
            }
            Put::Hole { length } if length > 0 => {
                let length = u64::from(length) % MOST + 1;
                match sink.hole(length) {
                    Ok(made) => {
                        let made = made.length;
                        assert!(made > 0 && made <= length && at + made <= limit);
                        let end = (at + made).min(model.len() as u64);
                        if at < end {
                            model[at as usize..end as usize].fill(0);
                        }
                        at += made;
                    }
                    Err(error) => {
                        assert_eq!(error.errno(), libc::EFBIG);
                        assert!(at + length > limit);
                    }
                }
            }
            Put::Keep { length } if length > 0 => {
                let length = u64::from(length) % MOST + 1;
                match sink.keep(length) {
                    Ok(kept) => {
                        assert!(kept > 0 && kept <= length && at + kept <= limit.min(opened_size));
                        at += kept;
                    }
                    Err(error) if error.errno() == libc::EFBIG => assert!(at + length > limit),
                    Err(error) => {
                        assert_eq!(error.errno(), libc::ENODATA);
                        assert!(at + length > opened_size);
                    }
                }
            }
            Put::Data { .. } | Put::Hole { .. } | Put::Keep { .. } => {}
        }
    }
    if pass.finish {
        sink.finish().unwrap();
        model.resize(if pass.truncate { at as usize } else { model.len().max(at as usize) }, 0);
    } else {
        // A checkpoint may have made it as long as it was then.
        let size = file.metadata().unwrap().len() as usize;
        assert!(size >= model.len() && size <= model.len().max(at as usize));
        model.resize(size, 0);
    }
}

fn assert_zeros(model: &[u8], at: u64, length: u64) {
    let hole = &model[at as usize..(at + length) as usize];
    assert!(hole.iter().all(|byte| *byte == 0), "a hole reads zero");
}

fn walk(file: &File, model: &[u8], range: &Range, steps: &[Step]) {
    let size = model.len() as u64;
    let options = source::Options {
        offset: u64::from(range.offset) % MOST,
        length: u64::from(range.length) % MOST,
        ignore_map: range.ignore_map,
        at_most: false,
    };
    let made = source::from_fd(file.as_raw_fd(), &options);
    let end = if options.length == 0 { size } else { options.offset + options.length };
    if size > 0 && (options.offset > size || end > size) {
        assert!(matches!(made.err().unwrap().errno(), libc::EINVAL | libc::ENODATA));
        return;
    }
    if size == 0 {
        return;
    }
    let mut source = made.unwrap();
    let mut at = options.offset;
    for step in steps {
        match *step {
            Step::Read { length } if length > 0 => {
                let mut buffer = vec![0xaa; length.into()];
                match source.next(&mut buffer).unwrap() {
                    Next::Data(count) => {
                        assert!(count > 0);
                        assert_eq!(buffer[..count], model[at as usize..at as usize + count]);
                        at += count as u64;
                    }
                    Next::Hole(length) => {
                        assert_eq!(source.look().unwrap().length, Some(length));
                        assert_zeros(model, at, length);
                    }
                    Next::Keep(_) => panic!("a file has nothing to keep"),
                    Next::End => assert_eq!(at, end),
                }
            }
            Step::Section | Step::Skip { .. } => {
                let look = source.look().unwrap();
                let known = look.length.unwrap();
                assert!(at + known <= end);
                match look.kind {
                    Kind::End => assert_eq!(at, end),
                    Kind::Data => assert!(known > 0),
                    Kind::Hole => assert_zeros(model, at, known),
                    Kind::Keep => panic!("a file has nothing to keep"),
                }
                if let Step::Skip { length } = *step {
                    let length = u64::from(length).min(known);
                    source.consume(length);
                    at += length;
                }
            }
            Step::Peek { most, first, block } => {
                let (most, block) = (u64::from(most) % MOST, u64::from(block) + 1);
                let first = u64::from(first) % block + 1;
                let seen = source.peek().unwrap().glimpse(most, first, block).unwrap();
                let Some(seen) = seen else { continue };
                assert!(seen.length > 0 && seen.length <= most);
                let data = &model[at as usize..(at + seen.length) as usize];
                let (head, tail) = data.split_at(data.len().min(first as usize));
                for part in std::iter::once(head).chain(tail.chunks(block as usize)) {
                    assert!(!seen.solid || part.iter().any(|byte| *byte != 0));
                }
                assert_eq!(source.look().unwrap().kind, Kind::Data);
            }
            Step::Read { .. } => {}
        }
    }
}

fn copy(file_from: &File, model: &[u8], copy: &Copy) {
    let target = file("copy");
    let mut expected = model.to_vec();
    if copy.over_old_content {
        let old = vec![0xee; model.len() + 1000];
        target.write_all_at(&old, 0).unwrap();
        expected.extend_from_slice(&old[model.len()..]);
    }
    let options = transfer::Options {
        sparse: [Sparse::Auto, Sparse::Never][usize::from(copy.sparse % 2)],
        detect_zeroes: copy.detect_zeroes,
        buffer_size: 4096 + u64::from(copy.buffer_size),
        zero_block: 4096,
        ..transfer::Options::default()
    };
    let mut source = source::from_fd(file_from.as_raw_fd(), &source::Options::default()).unwrap();
    let mut sink = sink::from_fd(target.as_raw_fd(), &sink::Options::default(), ()).unwrap();
    let mut transfer = Transfer::new(&options).unwrap();
    let budget = copy.budget.map(|bytes| u64::from(bytes) + 1);
    while transfer.run(source.as_mut(), sink.as_mut(), &mut (), budget, Patience::None).unwrap()
        != Progress::Finished
    {}
    assert!(content(&target) == expected);
    let stats = transfer.stats();
    assert_eq!(stats.position, model.len() as u64);
    assert_eq!(stats.data_bytes + stats.hole_bytes, stats.position);
}

fuzz_target!(|input: Input| {
    let file = file("file");
    let mut model = Vec::new();
    for pass in input.sinks.iter().take(4) {
        fill(&file, &mut model, pass);
        assert!(content(&file) == model);
    }
    walk(&file, &model, &input.source, &input.steps);
    copy(&file, &model, &input.copy);
});
