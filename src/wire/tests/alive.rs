//! Signs of life: who is there and slow is waited for, and no longer than that.

use super::*;
use crate::error::Operation;
use crate::testing;
use crate::wire::proto::body::{ANSWERS, Hello};
use crate::wire::proto::codec::VERSION;
use crate::wire::proto::frame::{Header, Kind};
use std::io::Write as _;
use std::time::{Duration, Instant};

const KEEPALIVE: Duration = Duration::from_millis(5);
/// How long a receiver waits for a sign of life. A busy machine stops a thread for much longer than KEEPALIVE.
const PATIENCE_MS: u64 = 1200;

/// HELLO of an endless stream with these features.
fn introduction(required: u64) -> Vec<u8> {
    let hello = Hello { required, ..testing::hello() }.encode();
    [&Header::with_body(Kind::Hello, 0, 0, &hello).encode()[..], &hello].concat()
}

/// One turn of an end that is not done. Returns how long it can be left alone.
fn waits(moving: &mut Moving) -> Option<Duration> {
    moving.turn();
    assert_eq!(moving.result, None);
    moving.transfer.wait().watch.timeout
}

fn limits(stall_ms: u64, idle_ms: u64) -> Transfer {
    Transfer::new(&Options { stall_ms, idle_ms, ..Options::default() }).unwrap()
}

/// A sender of a pipe without a writer, and a receiver: runs them for this long or until the receiver has
/// failed, each no earlier than it asked for.
fn run_beside_a_slow_source(options: Transfer, most: Duration) -> (Option<Result<()>>, Duration) {
    let (out, _into) = crate::sys::blocking_pipe();
    let copy = testing::file();
    let ends = socket();
    let writer = WriterOptions { keepalive: KEEPALIVE, ..WriterOptions::default() };
    let (mut writer, mut reader) = wire(&ends, &writer, &ReaderOptions::default());
    let mut source = source::from_fd(out.as_raw_fd(), &source::Options::default()).unwrap();
    let mut sink = to(&copy);
    let mut sender = Moving::new(source.as_mut(), &mut writer);
    let mut receiver = Moving { transfer: options, ..Moving::new(&mut reader, sink.as_mut()) };
    let begun = Instant::now();
    sender.turn();
    while begun.elapsed() < most {
        receiver.turn();
        if let Some(result) = receiver.result {
            return (Some(result), begun.elapsed());
        }
        let timeout = waits(&mut sender).expect("a keepalive is due");
        assert!(timeout <= KEEPALIVE, "{timeout:?}");
        std::thread::sleep(timeout);
    }
    drop(sender);
    // The one that is there no more, without a word, is late.
    std::mem::forget(writer);
    while receiver.result.is_none() && begun.elapsed() < 10 * most {
        std::thread::sleep(waits(&mut receiver).expect("it has a limit").min(KEEPALIVE));
        receiver.turn();
    }
    (receiver.result, begun.elapsed())
}

fn late(result: Option<Result<()>>) {
    let error = result.expect("it ends").unwrap_err();
    assert_eq!(
        (error.errno(), error.operation(), error.side(), error.is_peers()),
        (libc::ETIMEDOUT, Operation::Wait, Side::Source, false)
    );
}

#[test]
fn a_sender_that_shows_to_be_there_is_not_late() {
    let most = Duration::from_millis(2000);
    let (result, elapsed) = run_beside_a_slow_source(limits(PATIENCE_MS, 0), most);
    late(result);
    // The last sign may have come some time before.
    assert!(elapsed >= most + Duration::from_millis(PATIENCE_MS / 2), "{elapsed:?}");
}

#[test]
fn a_sender_that_only_shows_to_be_there_is_late_in_the_end() {
    let idle_ms = 2 * PATIENCE_MS;
    let most = Duration::from_secs(20);
    let (result, elapsed) = run_beside_a_slow_source(limits(PATIENCE_MS, idle_ms), most);
    late(result);
    assert!(elapsed >= Duration::from_millis(idle_ms - 10), "{elapsed:?}");
    assert!(elapsed < most, "{elapsed:?}");
}

/// A receiver shows that it is there, whichever end its transfer waits for.
#[test]
fn a_receiver_is_not_silent_for_longer_than_asked() {
    for waits_for_sink in [false, true] {
        let (mut far, near) = socket();
        far.write_all(&introduction(ANSWERS)).unwrap();
        let fd = near.as_raw_fd();
        let options = ReaderOptions { keepalive: KEEPALIVE, ..ReaderOptions::default() };
        let mut reader = reader_on(fd, Some(fd), &options).unwrap();
        let (out, into) = crate::sys::blocking_pipe();
        let copy = testing::file();
        let to = if waits_for_sink { into.as_raw_fd() } else { copy.as_raw_fd() };
        let mut sink = sink::from_fd(to, &sink::Options::default(), ()).unwrap();
        let mut receiver = Moving::new(&mut reader, sink.as_mut());
        if waits_for_sink {
            let data = Header { length: 1 << 18, ..Header::new(Kind::Data, 0, 0) };
            far.write_all(&data.encode()).unwrap();
            far.set_nonblocking(true).unwrap();
            // More than the pipe takes. No process reads from that.
            let _ = far.write(&vec![1; 1 << 18]);
        }
        // Counted, because a busy machine sleeps longer than it should.
        for _ in 0..20 {
            let timeout = waits(&mut receiver).expect("a sign of life is due");
            assert!(timeout <= KEEPALIVE, "{timeout:?}");
            std::thread::sleep(timeout);
        }
        far.set_nonblocking(true).unwrap();
        let mut answers = vec![0; 1 << 16];
        let count = std::io::Read::read(&mut far, &mut answers).unwrap();
        let sign = Header::new(Kind::Keepalive, 0, 0).encode();
        let signs = answers[..count].windows(4).filter(|bytes| *bytes == &sign[..4]).count();
        assert!(signs >= 3, "{signs} with a sink that is slow: {waits_for_sink}");
        drop((out, into));
    }
}

#[test]
fn a_flood_of_signs_is_no_way_around_the_limit() {
    let (mut far, near) = socket();
    far.write_all(&introduction(0)).unwrap();
    let flood = std::thread::spawn(move || {
        far.set_nonblocking(false).unwrap();
        let signs = Header::new(Kind::Keepalive, 0, 0).encode().repeat(1000);
        while far.write_all(&signs).is_ok() {}
    });
    let copy = testing::file();
    let mut sink = to(&copy);
    let mut reader = reader_on(near.as_raw_fd(), None, &ReaderOptions::default()).unwrap();
    let mut transfer = limits(100, 200);
    let result = transfer.run(&mut reader, sink.as_mut(), &mut (), None, Patience::Any);
    late(Some(result.map(drop)));
    drop((reader, near));
    flood.join().unwrap();
}

#[test]
fn a_receiver_that_acknowledges_is_not_late() {
    let file = testing::sparse(&[testing::Piece::Data(4)]);
    let ends = socket();
    let (mut writer, mut reader) =
        wire(&ends, &WriterOptions::default(), &ReaderOptions::default());
    let mut source = from(&file);
    let mut sender =
        Moving { transfer: limits(200, 200), ..Moving::new(source.as_mut(), &mut writer) };
    sender.turn();
    let mut buffer = [0; 1 << 14];
    let mut taken = 0;
    let begun = Instant::now();
    // It takes its time: each piece is on its medium long before the sender gives up.
    while taken < 4 * testing::BLOCK {
        sender.turn();
        match reader.open().and_then(|_| reader.next(&mut buffer)) {
            Ok(Next::Data(count)) => taken += count as u64,
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(error.would_block()),
        }
        reader.durable(taken);
        std::thread::sleep(Duration::from_millis(50));
    }
    waits(&mut sender);
    assert!(begun.elapsed() > Duration::from_millis(600));
    std::thread::sleep(Duration::from_millis(220));
    sender.turn();
    let error = sender.result.unwrap().unwrap_err();
    assert_eq!((error.errno(), error.side()), (libc::ETIMEDOUT, Side::Sink));
}

/// A sender is not held for ever: neither after END, nor by a receiver that reads nothing.
#[test]
fn a_receiver_that_only_shows_to_be_there_is_late_in_the_end() {
    use crate::wire::proto::body::{Accept, Reason};
    let accept = Accept {
        version: VERSION,
        reason: Reason::None,
        max_payload: 1 << 20,
        features: ANSWERS,
        resume_offset: 0,
        resume_digest: [0; 32],
        flags: 0,
    }
    .encode();
    // The small one is sent as a whole, the large one is not.
    for blocks in [1, 400] {
        for sign in [Header::new(Kind::Keepalive, 0, 0), Header::new(Kind::Ack, 0, 0)] {
            let file = testing::sparse(&[testing::Piece::Data(blocks)]);
            let (mut far, near) = socket();
            near.set_nonblocking(true).unwrap();
            far.write_all(&Header::with_body(Kind::Accept, 0, 0, &accept).encode()).unwrap();
            far.write_all(&accept).unwrap();
            let fd = near.as_raw_fd();
            let mut writer = writer_on(fd, Some(fd), &WriterOptions::default()).unwrap();
            let mut source = from(&file);
            let transfer = limits(100, 300);
            let mut sender = Moving { transfer, ..Moving::new(source.as_mut(), &mut writer) };
            let begun = Instant::now();
            while sender.result.is_none() && begun.elapsed() < Duration::from_secs(5) {
                far.write_all(&sign.encode()).unwrap();
                sender.turn();
                std::thread::sleep(Duration::from_millis(10));
            }
            let error = sender.result.expect("it ends").unwrap_err();
            assert_eq!((error.errno(), error.side()), (libc::ETIMEDOUT, Side::Sink), "{blocks}");
            assert!(begun.elapsed() >= Duration::from_millis(290));
        }
    }
}

/// The held bytes are read back in steps: a receiver may be asked for its other work between two, and its
/// sender is not late in that time.
#[test]
fn reading_back_is_done_in_steps_and_a_shorter_file_is_found_out() {
    let file = testing::sparse(&[testing::Piece::Data(200)]);
    for (restart, kept, errno) in
        [(false, 200, None), (false, 100, Some(libc::ENODATA)), (true, 100, None)]
    {
        let copy = testing::file();
        let whole = content(&file);
        copy.write_all_at(&whole[..(kept * testing::BLOCK) as usize], 0).unwrap();
        let ends = socket();
        let writer_options =
            WriterOptions { digest: true, resume: true, restart, ..WriterOptions::default() };
        let held = held(&copy, 200 * testing::BLOCK);
        let reader_options =
            ReaderOptions { held: Some(held), restart, ..ReaderOptions::default() };
        let (mut writer, mut reader) = wire(&ends, &writer_options, &reader_options);
        assert!(announce(&mut writer, 200 * testing::BLOCK).unwrap_err().would_block());
        let mut steps = 0;
        let result = loop {
            match reader.open() {
                Err(error) if error.interrupted() => steps += 1,
                Err(error) if error.would_block() => {
                    // The offer is made, and the sender compares.
                    assert!(steps >= 2, "{steps}");
                    assert_eq!(offered(&mut writer), Ok(200 * testing::BLOCK));
                    break Ok(0);
                }
                other => break other.map(|info| info.start),
            }
        };
        assert_eq!(result.map_err(|error| error.errno()), errno.map_or(Ok(0), Err));
        if restart {
            assert_eq!(offered(&mut writer), Ok(0));
        }
    }
}
