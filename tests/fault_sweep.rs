//! Fails each system call of a transfer, one at a time, in every way that it can fail.
//!
//! After each the result must be success with the right bytes, or an error that names the errno, the
//! side that was asked, the operation and, for a target with offsets, the offset that was reached; never
//! wrong bytes with success, never a hang, never an open descriptor more. A call that a signal
//! interrupted is made again by a transfer, and one that did less than was asked is continued: both are
//! success. Block devices are swept as root only.

use sparsestream::digest::Digest;
use sparsestream::end::{Sink, Source};
use sparsestream::error::{Error, Operation, Result, Side};
use sparsestream::sink::{self, DigestSink};
use sparsestream::source;
use sparsestream::sys::inject::{self, Fault};
use sparsestream::sys::{self, Call};
use sparsestream::transfer::{Options, Patience, Progress, Sparse, Transfer};
use sparsestream::wire::reader::ReaderOptions;
use sparsestream::wire::transport::{Descriptors, Transport};
use sparsestream::wire::writer::WriterOptions;
use sparsestream::wire::{Reader, Writer};
use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

const KIB: u64 = 1024;

/// The layout that every scenario moves: data, hole, data, zeros, hole at the end; unaligned.
const PIECES: [(u64, bool); 5] =
    [(70 * KIB + 11, true), (200 * KIB, false), (5, true), (130 * KIB, false), (64 * KIB, true)];
const TAIL: u64 = 300 * KIB + 7;

fn image() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (length, data) in PIECES {
        let start = bytes.len() as u64;
        bytes.extend((start..start + length).map(|at| if data { (at % 251) as u8 + 1 } else { 0 }));
    }
    bytes.resize(bytes.len() + TAIL as usize, 0);
    bytes
}

/// The same file, opened with O_DIRECT. Without, where the file system has none: then it is swept as it is.
fn direct(file: &File) -> File {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = libc::O_DIRECT;
    let opened = File::options().read(true).write(true).custom_flags(flags).open(path);
    opened.unwrap_or_else(|_| {
        println!("skipped: O_DIRECT: the temporary directory has none");
        file.try_clone().expect("a descriptor")
    })
}

fn unnamed() -> File {
    let path = std::env::temp_dir().join(format!(
        "sparsestream-sweep-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file =
        File::options().read(true).write(true).create_new(true).open(&path).expect("a new file");
    std::fs::remove_file(path).expect("it was just made");
    file
}

fn source_file() -> File {
    let file = unnamed();
    let bytes = image();
    let mut at = 0;
    for (length, data) in PIECES {
        if data {
            file.write_all_at(&bytes[at as usize..(at + length) as usize], at).expect("room");
        }
        at += length;
    }
    file.set_len(at + TAIL).expect("room");
    file
}

/// A loop device over a file of the temporary directory, detached with its last close.
struct Loop {
    device: File,
    backing: std::path::PathBuf,
}

impl Loop {
    fn new(size: u64) -> Option<Self> {
        let backing =
            std::env::temp_dir().join(format!("sparsestream-loop-{}", std::process::id()));
        File::create(&backing).ok()?.set_len(size).ok()?;
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&backing).output().ok();
        let name = made
            .filter(|made| made.status.success())
            .map(|made| String::from_utf8_lossy(&made.stdout).trim().to_owned());
        let device = name.as_ref().and_then(|name| {
            let device = File::options().read(true).write(true).open(name).ok();
            // While it is open this only marks it to go away with the last close.
            let _ = Command::new("losetup").args(["--detach", name]).status();
            device
        });
        if device.is_none() {
            let _ = std::fs::remove_file(&backing);
        }
        device.map(|device| Loop { device, backing })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.backing);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    NewFile,
    OldContent,
    Durable,
    Range,
    Block,
    Pipe,
    Socket,
    FromPipe,
    Wire,
    WireDetecting,
    Digest,
    Direct,
    DirectOver,
    FromDirect,
}

const TARGETS: [Target; 14] = [
    Target::NewFile,
    Target::OldContent,
    Target::Durable,
    Target::Range,
    Target::Block,
    Target::Pipe,
    Target::Socket,
    Target::FromPipe,
    Target::Wire,
    Target::WireDetecting,
    Target::Digest,
    Target::Direct,
    Target::DirectOver,
    Target::FromDirect,
];

#[derive(Debug, Clone, Copy)]
enum Injected {
    Errno(i32),
    Short(usize),
}

const INJECTED: [Injected; 9] = [
    Injected::Errno(libc::EINTR),
    Injected::Errno(libc::EAGAIN),
    Injected::Errno(libc::EIO),
    Injected::Errno(libc::ENOSPC),
    Injected::Errno(libc::EDQUOT),
    Injected::Errno(libc::EFBIG),
    Injected::Errno(libc::EOPNOTSUPP),
    Injected::Short(1),
    Injected::Short(1000),
];

/// The result of one run.
struct Outcome {
    result: Result<()>,
    bytes: Vec<u8>,
    expected: Vec<u8>,
    /// The call that was failed, if the run had this many.
    failed: Option<Call>,
    /// How far the transfer came, where the target has offsets.
    reached: Option<Reached>,
}

/// How far a transfer came, as offsets.
#[derive(Debug, Clone, Copy)]
struct Reached {
    target: u64,
    /// Where nothing is read ahead of what is written.
    source: Option<u64>,
}

/// A descriptor that is read to its end on the side, as the peer of a stream.
fn collect(mut reader: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = reader.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// A socket, as one end of the wire uses it.
fn over(socket: i32, side: Side) -> Result<Box<dyn Transport>> {
    Ok(Box::new(Descriptors::new(Some(socket), Some(socket), side)?))
}

/// Moves a file to another over the wire, both ends by turns. The result is the sender's, but what one end
/// does not know the other must: a sender that succeeds where the receiver has failed is never allowed.
fn over_a_wire(from: &OwnedFd, to: &OwnedFd, detect_zeroes: bool) -> Result<()> {
    let ends = UnixStream::pair().expect("sockets");
    for end in [&ends.0, &ends.1] {
        end.set_nonblocking(true).expect("a mode");
    }
    let [near, far] = [&ends.0, &ends.1].map(AsRawFd::as_raw_fd);
    let step =
        |transfer: &mut Transfer, source: &mut dyn Source, sink: &mut dyn Sink| match transfer.run(
            source,
            sink,
            &mut (),
            Some(32 * KIB),
            Patience::None,
        ) {
            Ok(Progress::Finished) => Some(Ok(())),
            Ok(Progress::BudgetUsed) => None,
            Err(error) if error.would_block() => None,
            Err(error) => Some(Err(error)),
        };
    let mut source = source::from_fd(from.as_raw_fd(), &source::Options::default())?;
    let mut writer = Writer::new(over(near, Side::Sink)?, &WriterOptions::default())?;
    let mut sending = Transfer::new(&Options { detect_zeroes, ..Options::default() })?;
    let mut reader = Reader::new(over(far, Side::Source)?, &ReaderOptions::default())?;
    let mut sink = sink::from_fd(to.as_raw_fd(), &sink::Options::default(), ())?;
    let mut receiving = Transfer::new(&Options::default())?;
    let (mut sent, mut received) = (None, None);
    loop {
        sent = sent.or_else(|| step(&mut sending, source.as_mut(), &mut writer));
        received = received.or_else(|| step(&mut receiving, &mut reader, sink.as_mut()));
        match (sent.clone(), received.clone()) {
            (Some(sent), Some(received)) => {
                return match (sent, received) {
                    (Ok(()), Err(_)) => Err(Error::Internal),
                    // The error of the end that failed first, if the other only reports that the connection
                    // was closed.
                    (Err(error), Err(first)) if error.errno() == libc::ECONNRESET => Err(first),
                    (sent, _) => sent,
                };
            }
            // As whoever owns the socket does.
            (Some(Err(_)), None) => ends.0.shutdown(Shutdown::Both).expect("it is open"),
            (None, Some(Err(_))) => ends.1.shutdown(Shutdown::Write).expect("it is open"),
            _ => {}
        }
    }
}

/// Moves the image to the target with the n-th system call failed.
fn run(target: Target, device: Option<&File>, nth: usize, what: Injected) -> Outcome {
    let image = image();
    let old = vec![0xee; image.len() + 5000];
    let mut options = sink::Options::default();
    let mut expected = image.clone();
    let (from, feeder): (OwnedFd, _) = if target == Target::FromPipe {
        let (reader, mut writer) = sys::blocking_pipe();
        let bytes = image.clone();
        let feeder = std::thread::spawn(move || {
            let _ = std::io::Write::write_all(&mut writer, &bytes);
        });
        (reader.into(), Some(feeder))
    } else if matches!(target, Target::Direct | Target::FromDirect) {
        (direct(&source_file()).into(), None)
    } else {
        (source_file().into(), None)
    };
    let mut collected = None;
    let to: OwnedFd = match target {
        Target::NewFile | Target::FromPipe | Target::Wire | Target::WireDetecting => {
            unnamed().into()
        }
        Target::Digest => {
            let mut digest = Digest::default();
            digest.data(&image);
            expected = digest.root().to_vec();
            unnamed().into()
        }
        Target::OldContent | Target::Durable | Target::Range => {
            let file = unnamed();
            file.write_all_at(&old, 0).expect("room");
            expected = old.clone();
            if target == Target::Range {
                options.offset = 333;
                options.length = image.len() as u64;
            }
            let at = options.offset as usize;
            expected[at..at + image.len()].copy_from_slice(&image);
            if target == Target::Durable {
                options.sync = true;
                options.sync_interval = 100 * KIB;
                options.truncate = true;
                expected.truncate(image.len());
            }
            file.into()
        }
        Target::Block => {
            let device = device.expect("there is one").try_clone().expect("a descriptor");
            device.write_all_at(&old, 0).expect("room");
            options.sync = true;
            expected = old.clone();
            expected[..image.len()].copy_from_slice(&image);
            device.into()
        }
        Target::Direct => direct(&unnamed()).into(),
        Target::DirectOver => {
            let file = unnamed();
            file.write_all_at(&old, 0).expect("room");
            options.offset = 333;
            options.sync_interval = 100 * KIB;
            expected = old.clone();
            expected[333..333 + image.len()].copy_from_slice(&image);
            direct(&file).into()
        }
        Target::Pipe | Target::FromDirect => {
            let (reader, writer) = sys::blocking_pipe();
            collected = Some(collect(reader));
            writer.into()
        }
        Target::Socket => {
            let (reader, writer) = UnixStream::pair().expect("sockets");
            collected = Some(collect(reader));
            writer.into()
        }
    };
    let failed = Rc::new(RefCell::new(None));
    let seen = Rc::clone(&failed);
    let mut calls = 0;
    let injector = move |call| {
        calls += 1;
        if calls != nth {
            return Fault::None;
        }
        *seen.borrow_mut() = Some(call);
        match what {
            Injected::Errno(errno) => Fault::Errno(errno),
            Injected::Short(most) => Fault::Short(most),
        }
    };
    let mut reached = None;
    let result = inject::with(injector, || {
        if matches!(target, Target::Wire | Target::WireDetecting) {
            return over_a_wire(&from, &to, target == Target::WireDetecting);
        }
        let mut source = source::from_fd(from.as_raw_fd(), &source::Options::default())?;
        if target == Target::Digest {
            let mut digest = DigestSink::default();
            let mut transfer = Transfer::new(&Options::default())?;
            transfer.run(source.as_mut(), &mut digest, &mut (), None, Patience::Any)?;
            File::from(to.try_clone().expect("a descriptor"))
                .write_all_at(&digest.root(), 0)
                .expect("room");
            return Ok(());
        }
        let mut sink = sink::from_fd(to.as_raw_fd(), &options, ())?;
        let mut transfer = Transfer::new(&Options {
            detect_zeroes: matches!(target, Target::OldContent | Target::FromPipe),
            sparse: if target == Target::Range { Sparse::Required } else { Sparse::Auto },
            buffer_size: 32 * KIB,
            zero_block: 4096,
            request_size: 32 * KIB,
            depth: 4,
            ..Options::default()
        })?;
        let result = transfer.run(source.as_mut(), sink.as_mut(), &mut (), None, Patience::Any);
        if !matches!(target, Target::Pipe | Target::Socket) {
            let position = transfer.stats().position;
            let detects = matches!(target, Target::OldContent | Target::FromPipe);
            let source = (!detects).then_some(position);
            reached = Some(Reached { target: options.offset + position, source });
        }
        result.map(drop)
    });
    drop(from);
    let bytes = match collected {
        Some(receiver) => {
            drop(to);
            receiver.recv().unwrap_or_default()
        }
        None => {
            let file = File::from(to);
            let length = expected.len() as u64;
            let size = file.metadata().map_or(0, |found| found.len());
            // A device has no size; a file's must be right.
            let length = if target == Target::Block { length } else { size };
            let mut bytes = vec![0; length as usize];
            // With O_DIRECT it cannot be read to the byte.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let file =
                if target == Target::Block { file } else { File::open(path).expect("a file") };
            file.read_exact_at(&mut bytes, 0).expect("it can be read");
            bytes
        }
    };
    if let Some(feeder) = feeder {
        let _ = feeder.join();
    }
    let failed = *failed.borrow();
    Outcome { result, bytes, expected, failed, reached }
}

/// Whether an error says what happened.
fn is_honest(
    error: &Error,
    target: Target,
    call: Call,
    what: Injected,
    reached: Option<Reached>,
) -> bool {
    let Injected::Errno(errno) = what else { return false };
    // While an end is made it is the caller's to call again. The loop makes it again by itself.
    if errno == libc::EINTR && error.operation() != Operation::Open {
        return false;
    }
    let side = match call {
        // Each side has both.
        _ if matches!(target, Target::Wire | Target::WireDetecting) => None,
        Call::Lseek | Call::Pread | Call::Read | Call::Recv => Some(Side::Source),
        Call::Pwrite | Call::Write | Call::Send | Call::Fallocate | Call::Ftruncate => {
            Some(Side::Sink)
        }
        Call::Fsync | Call::Getrlimit => Some(Side::Sink),
        // Both ends are examined, and an end that is not ready is waited for.
        _ => None,
    };
    // If a file or a device answers EAGAIN there is nothing to wait for: the result is EIO, with the reason.
    let named = error.errno() == errno
        || errno == libc::EAGAIN
            && error.errno() == libc::EIO
            && error.to_string().contains("EAGAIN");
    // An error names the offset of its own request. Several may be in flight beyond what was reached.
    let in_flight = matches!(target, Target::Direct | Target::DirectOver | Target::FromDirect);
    let at = |reached: u64| match error.offset() {
        Some(offset) if in_flight => (reached..reached + image().len() as u64).contains(&offset),
        offset => offset == Some(reached),
    };
    // Before the first byte anything may be asked of the target. Later it is written, or a hole is made.
    let does = match call {
        Call::Pwrite | Call::Fallocate if error.side() == Side::Sink => {
            let placed = reached.is_none_or(|reached| at(reached.target));
            let operations = [Operation::Write, Operation::Hole, Operation::Truncate];
            // A request for holes that the target cannot make is refused before the first byte.
            placed && operations.contains(&error.operation())
                || error.operation() == Operation::Sparse
        }
        Call::Pread if error.side() == Side::Source => {
            let source = reached.and_then(|reached| reached.source);
            let placed = source.is_none_or(at);
            placed && error.operation() == Operation::Read
        }
        Call::Ftruncate if error.side() == Side::Sink => {
            matches!(error.operation(), Operation::Truncate | Operation::Open)
        }
        Call::Fsync if error.side() == Side::Sink => error.operation() == Operation::Sync,
        _ => true,
    };
    named && does && side.is_none_or(|side| side == error.side() || error.side() == Side::None)
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc is mounted").count()
}

#[test]
fn every_system_call_may_fail() {
    let device = Loop::new(4 << 20);
    let (mut injections, mut successes, mut errors) = (0, 0, 0);
    let (mut wrong, mut hung, mut lost, mut skipped) = (0, 0, 0, 0);
    let before = open_descriptors();
    for target in TARGETS {
        if target == Target::Block && device.is_none() {
            println!("skipped: block device: no loop device can be made here");
            skipped += 1;
            continue;
        }
        for what in INJECTED {
            for nth in 1.. {
                let (sender, receiver) = mpsc::channel();
                let device = device.as_ref().map(|device| device.device.try_clone().expect("a fd"));
                let worker = std::thread::spawn(move || {
                    let _ = sender.send(run(target, device.as_ref(), nth, what));
                });
                let Ok(outcome) = receiver.recv_timeout(Duration::from_secs(20)) else {
                    println!("hang: {target:?}, {what:?} at call {nth}");
                    hung += 1;
                    break;
                };
                worker.join().expect("it has answered");
                let Some(call) = outcome.failed else { break };
                injections += 1;
                match outcome.result {
                    Ok(()) if outcome.bytes == outcome.expected => successes += 1,
                    Ok(()) => {
                        println!("wrong bytes: {target:?}, {what:?} at call {nth} ({call:?})");
                        wrong += 1;
                    }
                    Err(error) if is_honest(&error, target, call, what, outcome.reached) => {
                        errors += 1
                    }
                    Err(error) => {
                        println!("lost: {target:?}, {what:?} at call {nth} ({call:?}): {error}");
                        lost += 1;
                    }
                }
            }
        }
    }
    let leaked = open_descriptors() - before;
    println!(
        "{injections} injections: {successes} right bytes, {errors} errors told; wrong bytes \
         {wrong}, hangs {hung}, lost errors {lost}, leaked fds {leaked}; {skipped} targets skipped"
    );
    assert_eq!((wrong, hung, lost, leaked), (0, 0, 0, 0));
    assert!(injections >= 2000, "only {injections}");
}
