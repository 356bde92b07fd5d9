//! A writer and a reader, over sockets and pipes.

use super::*;
use crate::end::{Attempt, End, Extent, Fetch, Look, Made, SinkWays};
use crate::error::Operation;
use crate::section::Kind;
use crate::sys::Call;
use crate::sys::inject::{self, Fault};
use crate::testing::{self, BLOCK, Piece::*};
use crate::wait::Waiting;
use std::cell::RefCell;
use std::io::Write as _;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

fn every_option() -> WriterOptions {
    WriterOptions {
        checksum: true,
        digest: true,
        resume: true,
        checkpoint_interval: BLOCK,
        keepalive: Duration::from_millis(1),
        ..WriterOptions::default()
    }
}

#[test]
fn a_file_comes_over_a_socket_with_its_holes() {
    for options in [WriterOptions::default(), every_option()] {
        let file = testing::sparse(&[Hole(3), Data(7), Hole(1000), Data(1), Hole(2)]);
        let copy = testing::file();
        let ends = socket();
        let (mut writer, mut reader) = wire(&ends, &options, &ReaderOptions::default());
        let (mut source, mut sink) = (from(&file), to(&copy));
        let mut sender = Moving::new(source.as_mut(), &mut writer);
        let mut receiver = Moving::new(&mut reader, sink.as_mut());
        assert_eq!(run(&mut sender, &mut receiver), (Ok(()), Ok(())));
        assert_eq!(counts(sender.stats()), counts(receiver.stats()));
        assert_eq!(receiver.stats().total, Some(1013 * BLOCK));
        assert!(content(&file) == content(&copy));
        assert_eq!(map(file.as_raw_fd()), map(copy.as_raw_fd()));
    }
}

/// A socket whose ends do not wait: what is sent from where it lies needs that.
fn ready_socket() -> (UnixStream, UnixStream) {
    let ends = socket();
    ends.0.set_nonblocking(true).unwrap();
    ends.1.set_nonblocking(true).unwrap();
    ends
}

/// Moves a file over a socket with faults at both ends. Returns the calls that were made, and what
/// came of it.
fn moved(
    file: &File,
    copy: &File,
    fault: impl FnMut(Call, usize) -> Fault + 'static,
) -> (Vec<Call>, (Result<()>, Result<()>)) {
    moved_by(|source, sink| Moving::new(source, sink), file, copy, fault)
}

/// As [`moved`], by a sender that is made so.
fn moved_by(
    new: impl for<'a> FnOnce(&'a mut dyn Source, &'a mut dyn Sink) -> Moving<'a>,
    file: &File,
    copy: &File,
    mut fault: impl FnMut(Call, usize) -> Fault + 'static,
) -> (Vec<Call>, (Result<()>, Result<()>)) {
    let ends = ready_socket();
    let options = ReaderOptions::default();
    let (mut writer, mut reader) = wire(&ends, &WriterOptions::default(), &options);
    let (mut source, mut sink) = (from(file), to(copy));
    let mut sender = new(source.as_mut(), &mut writer);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    let calls = Rc::new(RefCell::new(Vec::<Call>::new()));
    let seen = Rc::clone(&calls);
    let result = inject::with(
        move |call| {
            seen.borrow_mut().push(call);
            let before = seen.borrow().iter().filter(|made| **made == call).count() - 1;
            fault(call, before)
        },
        || {
            for _ in 0..100_000 {
                sender.turn();
                receiver.turn();
                match (sender.result.clone(), receiver.result.clone()) {
                    (Some(sent), Some(received)) => return (sent, received),
                    // As whoever owns the socket does.
                    (Some(Err(_)), None) => ends.0.shutdown(Shutdown::Both).unwrap(),
                    _ => {}
                }
            }
            panic!("it stands still: {:?} {:?}", sender.result, receiver.result);
        },
    );
    let calls = calls.borrow().clone();
    (calls, result)
}

#[test]
fn long_data_is_not_copied_through_memory() {
    let file = testing::sparse(&[Hole(3), Data(160), Hole(10), Data(1), Hole(2), Data(90)]);
    let copy = testing::file();
    let (calls, result) = moved(&file, &copy, |_, _| Fault::None);
    assert_eq!(result, (Ok(()), Ok(())));
    assert!(content(&file) == content(&copy));
    assert_eq!(map(file.as_raw_fd()), map(copy.as_raw_fd()));
    let count = |name| calls.iter().filter(|call| **call == name).count();
    assert!(count(Call::Sendfile) > 0 && count(Call::Splice) > 0);
    // All data but what came with the first heads.
    assert!(count(Call::Pread) <= 2, "{}", count(Call::Pread));
    assert!(count(Call::Pwrite) <= 8, "{}", count(Call::Pwrite));
}

#[test]
fn data_among_zeros_is_not_copied_through_memory() {
    let whole = [Data(40), Hole(50), Data(31), Hole(9), Data(10)];
    let file = testing::sparse(&whole);
    // So that the map does not help.
    for (from, to) in [(40, 90), (121, 130)] {
        file.write_all_at(&vec![0; ((to - from) * BLOCK) as usize], from * BLOCK).unwrap();
    }
    for failing in [None, Some(0), Some(1), Some(7)] {
        let copy = testing::file();
        let fault = move |call, before| match call {
            Call::Sendfile if Some(before) == failing => Fault::Errno(libc::EIO),
            // In the middle of a block.
            Call::Sendfile if failing.is_some() => Fault::Short(150_000),
            _ => Fault::None,
        };
        let (calls, result) =
            moved_by(|source, sink| Moving::detecting(source, sink), &file, &copy, fault);
        assert_eq!(result, (Ok(()), Ok(())));
        assert!(content(&file) == content(&copy));
        assert_eq!(map(copy.as_raw_fd()), map(testing::sparse(&whole).as_raw_fd()));
        let count = |name| calls.iter().filter(|call| **call == name).count();
        if failing.is_none() {
            assert!(count(Call::Sendfile) > 0);
            // 59 blocks of zeros, 4 at a time, and looks.
            assert!(count(Call::Pread) < 59 / 4 + 130, "{}", count(Call::Pread));
        }
    }
}

#[test]
fn data_that_cannot_go_uncopied_is_copied() {
    let file = testing::sparse(&[Hole(3), Data(60), Hole(10), Data(70)]);
    for (name, from, errno) in [
        (Call::Sendfile, 0, libc::EINVAL),
        (Call::Sendfile, 2, libc::EIO),
        (Call::Splice, 0, libc::EINVAL),
        // The second half of the first: into the file.
        (Call::Splice, 1, libc::EINVAL),
        (Call::Splice, 5, libc::ENOSYS),
        (Call::Pipe, 0, libc::EMFILE),
    ] {
        let copy = testing::file();
        let (_, result) = moved(&file, &copy, move |call, before| match call {
            _ if call == name && before >= from => Fault::Errno(errno),
            Call::Sendfile | Call::Splice => Fault::Short(70_001),
            _ => Fault::None,
        });
        assert_eq!(result, (Ok(()), Ok(())), "{name:?} {from} {errno}");
        assert!(content(&file) == content(&copy), "{name:?} {from} {errno}");
    }
}

#[test]
fn a_source_that_shrinks_in_a_frame_is_an_error_that_both_ends_see() {
    let file = testing::sparse(&[Data(2)]);
    let copy = testing::file();
    let short = file.try_clone().unwrap();
    let (_, (sent, received)) = moved(&file, &copy, move |call, before| match call {
        Call::Sendfile if before == 3 => {
            short.set_len(4 * 10_000 + 5).unwrap();
            Fault::Short(10_000)
        }
        Call::Sendfile => Fault::Short(10_000),
        _ => Fault::None,
    });
    let sent = sent.unwrap_err();
    assert_eq!((sent.side(), sent.errno()), (Side::Source, libc::ENODATA));
    assert_eq!(received.unwrap_err().errno(), libc::ENODATA);
    // Nothing was made up to fill the frame.
    assert_eq!(content(&copy), content(&file)[..copy.metadata().unwrap().len() as usize]);
}

/// A writer that has sent one block of a frame of two, and the reader before it.
fn in_a_frame(ends: &(UnixStream, UnixStream), file: &File) -> (Writer, Reader) {
    let (mut writer, mut reader) = wire(ends, &WriterOptions::default(), &ReaderOptions::default());
    assert!(announce(&mut writer, 8 * BLOCK).unwrap_err().would_block());
    assert!(offered(&mut writer).unwrap_err().would_block());
    reader.open().unwrap();
    assert_eq!(offered(&mut writer), Ok(0));
    let extent = Extent { fd: file.as_raw_fd(), offset: 0, length: 2 * BLOCK };
    let sent = inject::with(
        |call| if call == Call::Sendfile { Fault::Short(BLOCK as usize) } else { Fault::None },
        || writer.fetch_extent(&extent).unwrap(),
    );
    assert_eq!(sent, Attempt::Moved(BLOCK));
    (writer, reader)
}

#[test]
fn nothing_is_made_up_where_a_frame_ends_early() {
    let (ends, file, copy) = (ready_socket(), testing::sparse(&[Data(2)]), testing::file());
    let (mut writer, mut reader) = in_a_frame(&ends, &file);
    // Neither an end nor anything else can stand in a frame that was begun.
    assert_eq!(writer.finish().unwrap_err().errno(), libc::ENODATA);
    drop(writer);
    let mut sink = to(&copy);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    receiver.turn();
    assert_eq!(receiver.result, None);
    ends.0.shutdown(Shutdown::Both).unwrap();
    receiver.turn();
    assert_eq!(receiver.result.clone().unwrap().unwrap_err().errno(), libc::ENODATA);
    assert_eq!(receiver.stats().position, BLOCK);
    assert!(content(&copy) == content(&file)[..BLOCK as usize]);
}

#[test]
fn data_that_becomes_a_hole_in_a_frame_reads_zero() {
    let (ends, file, copy) = (ready_socket(), testing::sparse(&[Data(2)]), testing::file());
    let (mut writer, mut reader) = in_a_frame(&ends, &file);
    let mut sink = to(&copy);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    let mut left = 7 * BLOCK;
    for _ in 0..1000 {
        match if left > 0 {
            writer.hole(left).map(|made| made.length)
        } else {
            writer.finish().map(|()| 0)
        } {
            Ok(0) => break,
            Ok(count) => left -= count,
            Err(error) => assert!(error.would_block(), "{error}"),
        }
        receiver.turn();
    }
    assert_eq!(receiver.result, Some(Ok(())));
    let mut expected = content(&file);
    expected.truncate(BLOCK as usize);
    expected.resize(8 * BLOCK as usize, 0);
    assert!(content(&copy) == expected);
}

#[test]
fn one_way_nothing_is_sent_that_may_still_change() {
    let (a, b) = ready_socket();
    let (file, copy) = (testing::sparse(&[Data(2)]), testing::file());
    let mut writer = writer_on(a.as_raw_fd(), None, &WriterOptions::default()).unwrap();
    let mut source = from(&file);
    let mut sender = Moving::new(source.as_mut(), &mut writer);
    sender.turn();
    assert_eq!(sender.result, Some(Ok(())));
    let before = content(&file);
    file.write_all_at(&vec![b'x'; before.len()], 0).unwrap();
    let mut reader = reader_on(b.as_raw_fd(), None, &ReaderOptions::default()).unwrap();
    let mut sink = to(&copy);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    receiver.turn();
    assert_eq!(receiver.result, Some(Ok(())));
    assert!(content(&copy) == before);
}

#[test]
fn a_frame_that_is_here_is_checked_before_it_is_handed_out() {
    let (mut a, b) = socket();
    let options = WriterOptions { checksum: true, ..WriterOptions::default() };
    let (stored, copy) = (testing::file(), testing::file());
    let mut writer = writer_on(stored.as_raw_fd(), None, &options).unwrap();
    assert_eq!(writer.write(&[b'a'; 8000]), Ok(8000));
    writer.finish().unwrap();
    let mut bytes = content(&stored);
    let last = bytes.iter().rposition(|byte| *byte == b'a').unwrap();
    bytes[last] = b'b';
    a.write_all(&bytes).unwrap();
    let mut reader = reader_on(b.as_raw_fd(), None, &ReaderOptions::default()).unwrap();
    let mut sink = to(&copy);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    receiver.turn();
    assert_eq!(receiver.result.clone().unwrap().unwrap_err().errno(), libc::EBADMSG);
    assert_eq!(copy.metadata().unwrap().len(), 0);
}

#[test]
fn a_pipe_is_enough_without_answers() {
    let file = testing::sparse(&[Data(3), Hole(1000), Data(40)]);
    let copy = testing::file();
    let (out, into) = crate::sys::blocking_pipe();
    let options = WriterOptions { checksum: true, digest: true, ..WriterOptions::default() };
    let mut writer = writer_on(into.as_raw_fd(), None, &options).unwrap();
    // A receiver that could answer learns that the sender does not read.
    let (_nobody, back) = crate::sys::blocking_pipe();
    let options = ReaderOptions { checksum: true, digest: true, ..ReaderOptions::default() };
    let mut reader = reader_on(out.as_raw_fd(), Some(back.as_raw_fd()), &options).unwrap();
    let (mut source, mut sink) = (from(&file), to(&copy));
    let mut sender = Moving::new(source.as_mut(), &mut writer);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    assert_eq!(run(&mut sender, &mut receiver), (Ok(()), Ok(())));
    assert!(content(&file) == content(&copy));
}

#[test]
fn a_stream_can_lie_in_a_file_meanwhile() {
    let file = testing::sparse(&[Data(3), Hole(1000), Data(4)]);
    let (stored, copy) = (testing::file(), testing::file());
    let options = WriterOptions { digest: true, ..WriterOptions::default() };
    let mut writer = writer_on(stored.as_raw_fd(), None, &options).unwrap();
    let (mut source, mut sink) = (from(&file), to(&copy));
    Moving::new(source.as_mut(), &mut writer).turn();
    crate::sys::set_position(stored.as_raw_fd(), 0).unwrap();
    let mut reader = reader_on(stored.as_raw_fd(), None, &ReaderOptions::default()).unwrap();
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    receiver.turn();
    assert_eq!(receiver.result, Some(Ok(())));
    assert!(content(&file) == content(&copy));
}

#[test]
fn a_look_before_a_read_breaks_nothing() {
    let file = testing::sparse(&[Data(1), Hole(2)]);
    let (out, into) = crate::sys::blocking_pipe();
    let mut writer = writer_on(into.as_raw_fd(), None, &WriterOptions::default()).unwrap();
    let mut reader = reader_on(out.as_raw_fd(), None, &ReaderOptions::default()).unwrap();
    let mut source = from(&file);
    let mut sender = Moving::new(source.as_mut(), &mut writer);
    // The pipe holds no more than the data; the rest is sent when some of that was read.
    sender.turn();
    let (mut buffer, mut taken) = (vec![0; 1 << 14], 0);
    while taken < BLOCK {
        sender.turn();
        match reader.look() {
            Ok(known) => assert_eq!(known.kind, Kind::Data),
            Err(error) => assert!(error.would_block()),
        }
        match reader.next(&mut buffer) {
            Ok(Next::Data(count)) => taken += count as u64,
            other => assert!(other.unwrap_err().would_block()),
        }
    }
    sender.turn();
    let hole = Look { kind: Kind::Hole, length: Some(2 * BLOCK) };
    assert_eq!(reader.look(), Ok(hole));
    assert_eq!(reader.next(&mut buffer), Ok(Next::Hole(2 * BLOCK)));
}

#[test]
fn an_answer_needs_a_way_back() {
    let (a, b) = socket();
    let mut writer =
        writer_on(a.as_raw_fd(), Some(a.as_raw_fd()), &WriterOptions::default()).unwrap();
    assert!(offered(&mut writer).unwrap_err().would_block());
    let mut reader = reader_on(b.as_raw_fd(), None, &ReaderOptions::default()).unwrap();
    assert_eq!(reader.open().unwrap_err().errno(), libc::ENOTCONN);
    drop((reader, b));
    assert_eq!(offered(&mut writer).unwrap_err().errno(), libc::ECONNRESET);
}

/// A sink of a file whose last call, or the write at some offset, fails.
struct Full {
    sink: Box<dyn Sink>,
    at: Option<u64>,
    written: u64,
}

impl Sink for Full {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        self.sink.open(plan)
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        let most = match self.at {
            Some(at) if at == self.written => {
                return Err(Error::at(Operation::Write, Side::Sink, at, libc::ENOSPC));
            }
            Some(at) => (at - self.written).min(buffer.len() as u64) as usize,
            None => buffer.len(),
        };
        let count = self.sink.write(&buffer[..most])?;
        self.written += count as u64;
        Ok(count)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.sink.hole(length)
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        self.sink.keep(length)
    }
}

impl SinkWays for Full {}

impl End for Full {
    fn finish(&mut self) -> Result<()> {
        Err(Error::at(Operation::Sync, Side::Sink, self.written, libc::ENOSPC))
    }

    fn abort(&mut self, _error: &Error) {}

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}

#[test]
fn the_receivers_failure_is_the_senders_result() {
    for at in [Some(5 * BLOCK + 17), Some(BLOCK), None] {
        let file = testing::sparse(&[Data(400)]);
        let copy = testing::file();
        let ends = socket();
        let (mut writer, mut reader) =
            wire(&ends, &WriterOptions::default(), &ReaderOptions::default());
        let mut source = from(&file);
        let mut sink = Full { sink: to(&copy), at, written: 0 };
        let mut sender = Moving::new(source.as_mut(), &mut writer);
        let mut receiver = Moving::new(&mut reader, &mut sink);
        let (sent, received) = run(&mut sender, &mut receiver);
        let (sent, received) = (sent.unwrap_err(), received.unwrap_err());
        assert_eq!(fields(&sent), fields(&received));
        let operation = if at.is_some() { Operation::Write } else { Operation::Sync };
        let offset = at.unwrap_or(400 * BLOCK);
        assert_eq!(fields(&sent), (operation, Side::Sink, Some(offset), libc::ENOSPC));
        assert!(sent.is_peers() && !received.is_peers());
        assert_eq!(sent.to_string(), format!("peer: {received}"));
    }
}

#[test]
fn the_senders_failure_is_the_receivers_result() {
    let file = testing::sparse(&[Data(4)]);
    let ends = socket();
    let (mut writer, mut reader) =
        wire(&ends, &WriterOptions::default(), &ReaderOptions::default());
    let (mut source, copy) = (from(&file), testing::file());
    file.set_len(BLOCK).unwrap();
    let mut sink = to(&copy);
    let mut sender = Moving::new(source.as_mut(), &mut writer);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    let (sent, received) = run(&mut sender, &mut receiver);
    let (sent, received) = (sent.unwrap_err(), received.unwrap_err());
    assert_eq!(sent, Error::EndedEarly { offset: BLOCK, expected: 4 * BLOCK });
    assert!(received.is_peers());
    assert_eq!(received.to_string(), format!("peer: {sent}"));
    assert_eq!(received.errno(), libc::ENODATA);
}

#[test]
fn a_stream_that_is_cut_off_is_an_error_at_both_ends() {
    let file = testing::sparse(&[Data(40)]);
    let copy = testing::file();
    let (out, into) = crate::sys::blocking_pipe();
    let mut writer = writer_on(into.as_raw_fd(), None, &WriterOptions::default()).unwrap();
    let mut reader = reader_on(out.as_raw_fd(), None, &ReaderOptions::default()).unwrap();
    let (mut source, mut sink) = (from(&file), to(&copy));
    Moving::new(source.as_mut(), &mut writer).turn();
    std::mem::forget(writer);
    drop(into);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    receiver.turn();
    let error = receiver.result.clone().unwrap().unwrap_err();
    assert_eq!((error.errno(), error.expected()), (libc::ENODATA, Some(40 * BLOCK)));
    drop(receiver);
    drop((reader, out));

    let (a, b) = socket();
    let mut writer =
        writer_on(a.as_raw_fd(), Some(a.as_raw_fd()), &WriterOptions::default()).unwrap();
    assert!(offered(&mut writer).unwrap_err().would_block());
    drop(b);
    assert!([libc::ECONNRESET, libc::EPIPE].contains(&offered(&mut writer).unwrap_err().errno()));
    assert!([libc::ECONNRESET, libc::EPIPE].contains(&writer.finish().unwrap_err().errno()));
}

#[test]
fn an_end_that_is_freed_midway_reports_to_the_other() {
    let (a, b) = socket();
    let ends = (a, b);
    let (mut writer, mut reader) =
        wire(&ends, &WriterOptions::default(), &ReaderOptions::default());
    assert!(offered(&mut writer).unwrap_err().would_block());
    reader.open().unwrap();
    assert_eq!(offered(&mut writer), Ok(0));
    drop(writer);
    let error = reader.next(&mut [0; 10]).unwrap_err();
    assert!(error.is_peers());
    assert_eq!(error.errno(), libc::ECANCELED);
}

/// Receives again into a file that has the first part of the stream already.
fn resumed(
    file: &File,
    copy: &File,
    held: Held,
    restart: (bool, bool),
) -> (Result<()>, Result<()>, Option<(Stats, Stats)>) {
    let ends = socket();
    let options = WriterOptions { restart: restart.0, ..every_option() };
    let mut options = options;
    options.description.identity = [7; 32];
    let reader_options =
        ReaderOptions { held: Some(held), restart: restart.1, ..ReaderOptions::default() };
    let (mut writer, mut reader) = wire(&ends, &options, &reader_options);
    let mut source = from(file);
    let mut sender = Moving::new(source.as_mut(), &mut writer);
    let introduction = loop {
        sender.turn();
        match reader.introduction() {
            Ok(introduction) => break introduction,
            Err(error) if error.would_block() || error.interrupted() => {}
            Err(error) => {
                sender.turn();
                return (sender.result.clone().unwrap(), Err(error), None);
            }
        }
        if let Some(result) = sender.result {
            let error = reader.introduction().unwrap_err();
            return (result, Err(error), None);
        }
    };
    let options = sink::Options { offset: introduction.start, ..sink::Options::default() };
    let mut sink = sink::from_fd(copy.as_raw_fd(), &options, ()).unwrap();
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    let (sent, received) = run(&mut sender, &mut receiver);
    (sent, received, Some((sender.stats(), receiver.stats())))
}

fn held_of(copy: &File, length: u64, identity: [u8; 32]) -> Held {
    let mut held = held(copy, length);
    held.part.identity = identity;
    held
}

#[test]
fn held_data_is_not_sent_again() {
    let file = testing::sparse(&[Data(10), Hole(100), Data(30), Hole(5)]);
    let whole = content(&file);
    for cut in [1, 10 * BLOCK, 50 * BLOCK + 3, 115 * BLOCK - 1, 145 * BLOCK] {
        let copy = testing::file();
        copy.write_all_at(&whole[..cut as usize], 0).unwrap();
        let held = held_of(&copy, cut, [7; 32]);
        let (sent, received, stats) = resumed(&file, &copy, held, (false, false));
        assert_eq!((sent, received), (Ok(()), Ok(())), "{cut}");
        assert!(content(&copy) == whole);
        let (sent, received) = stats.unwrap();
        assert_eq!(counts(sent), counts(received));
        assert_eq!(sent.data_bytes + sent.hole_bytes, 145 * BLOCK - cut);
        assert_eq!(sent.position, 145 * BLOCK);
    }
}

#[test]
fn held_data_that_differs_is_refused_or_sent_again() {
    let file = testing::sparse(&[Data(10), Hole(100), Data(30)]);
    let whole = content(&file);
    for (restart, starts_again) in [
        ((false, false), false),
        ((true, false), false),
        ((false, true), false),
        ((true, true), true),
    ] {
        let copy = testing::file();
        copy.write_all_at(&whole[..20 * BLOCK as usize], 0).unwrap();
        copy.write_all_at(b"x", 3 * BLOCK + 5).unwrap();
        let held = held_of(&copy, 20 * BLOCK, [7; 32]);
        let before = content(&copy);
        let (sent, received, stats) = resumed(&file, &copy, held, restart);
        if starts_again {
            assert_eq!((sent, received), (Ok(()), Ok(())));
            assert_eq!(stats.unwrap().1.data_bytes, 40 * BLOCK);
            assert!(content(&copy) == whole);
        } else {
            assert_eq!(sent.unwrap_err().errno(), libc::ESTALE);
            assert_eq!(received.unwrap_err().errno(), libc::ESTALE);
            assert!(content(&copy) == before);
        }
    }
}

#[test]
fn another_source_is_refused_or_sent_from_its_start() {
    let file = testing::sparse(&[Data(10)]);
    for restart in [false, true] {
        let copy = testing::file();
        copy.write_all_at(&content(&file)[..BLOCK as usize], 0).unwrap();
        let held = held_of(&copy, BLOCK, [8; 32]);
        let (sent, received, stats) = resumed(&file, &copy, held, (false, restart));
        if restart {
            assert_eq!((sent, received), (Ok(()), Ok(())));
            assert_eq!(stats.unwrap().1.data_bytes, 10 * BLOCK);
        } else {
            assert!(sent.unwrap_err().is_peers());
            assert_eq!(received.unwrap_err().errno(), libc::ESTALE);
        }
    }
}

#[test]
fn durable_data_is_reported() {
    let file = testing::sparse(&[Data(100)]);
    let copy = testing::file();
    let ends = socket();
    let (mut writer, mut reader) = wire(&ends, &every_option(), &ReaderOptions::default());
    let options = sink::Options { sync_interval: 10 * BLOCK, ..sink::Options::default() };
    let mut source = from(&file);
    let mut sink = sink::from_fd(copy.as_raw_fd(), &options, ()).unwrap();
    let mut sender = Moving::new(source.as_mut(), &mut writer);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    assert_eq!(run(&mut sender, &mut receiver), (Ok(()), Ok(())));
    drop((sender, receiver));
    assert_eq!(writer.durable(), Some(100 * BLOCK));
}

#[test]
fn holes_and_small_data_go_with_few_calls() {
    let calls = std::rc::Rc::new(std::cell::Cell::new((0, 0)));
    let (out, into) = crate::sys::blocking_pipe();
    let mut writer = writer_on(into.as_raw_fd(), None, &WriterOptions::default()).unwrap();
    let mut reader = reader_on(out.as_raw_fd(), None, &ReaderOptions::default()).unwrap();
    let seen = std::rc::Rc::clone(&calls);
    inject::with(
        move |call| {
            let (read, written) = seen.get();
            match call {
                Call::Read => seen.set((read + 1, written)),
                Call::Write => seen.set((read, written + 1)),
                _ => {}
            }
            Fault::None
        },
        || {
            for _ in 0..100 {
                assert_eq!(writer.write(&[1; 50]), Ok(50));
                assert_eq!(writer.hole(1 << 40).unwrap().length, 1 << 40);
            }
            writer.finish().unwrap();
            let mut buffer = [0; 4096];
            for _ in 0..100 {
                assert_eq!(reader.next(&mut buffer), Ok(Next::Data(50)));
                assert_eq!(reader.next(&mut buffer), Ok(Next::Hole(1 << 40)));
                reader.consume(1 << 40);
            }
            assert_eq!(reader.next(&mut buffer), Ok(Next::End));
            reader.finish().unwrap();
        },
    );
    let (read, written) = calls.get();
    // Each may be asked twice where the kernel does not know the best way.
    assert!(read <= 3 && written <= 3, "{read} {written}");
}

#[test]
fn a_relay_passes_on_the_stream_and_the_last_word() {
    for full in [false, true] {
        let file = testing::sparse(&[Data(30), Hole(500), Data(5)]);
        let copy = testing::file();
        let (near, far) = (socket(), socket());
        let none = ReaderOptions::default();
        let (mut writer, mut incoming) = wire(&near, &every_option(), &none);
        let (mut outgoing, mut reader) = wire(&far, &WriterOptions::default(), &none);
        let mut source = from(&file);
        let at = full.then_some(3 * BLOCK);
        let mut whole = to(&copy);
        let mut broken = Full { sink: to(&copy), at, written: 0 };
        let sink: &mut dyn Sink = if full { &mut broken } else { whole.as_mut() };
        let mut sender = Moving::new(source.as_mut(), &mut writer);
        let mut relay = Moving::new(&mut incoming, &mut outgoing);
        let mut receiver = Moving::new(&mut reader, sink);
        for _ in 0..100_000 {
            sender.turn();
            relay.turn();
            receiver.turn();
            if sender.result.is_some() {
                break;
            }
        }
        if full {
            let error = sender.result.clone().unwrap().unwrap_err();
            assert!(error.is_peers());
            let expected = (Operation::Write, Side::Sink, Some(3 * BLOCK), libc::ENOSPC);
            assert_eq!(fields(&error), expected);
        } else {
            let results = [sender.result, relay.result, receiver.result];
            assert!(results.iter().all(|result| *result == Some(Ok(()))));
            assert!(content(&file) == content(&copy));
        }
    }
}
