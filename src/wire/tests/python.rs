//! A peer in another language, written from the documents alone, reads what is written here and refuses
//! what is refused here, and the other way around.

use super::*;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

const STREAMS: u64 = 1000;

/// A directory that is removed afterwards.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let process = std::process::id();
        let path = std::env::temp_dir().join(format!("sparsestream-wire-{name}-{process}"));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn put(writer: &mut Writer, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        bytes = &bytes[writer.write(bytes).unwrap()..];
    }
}

/// Few have a digest, which takes Python its time.
fn options(random: &mut Random) -> WriterOptions {
    WriterOptions {
        checksum: random.below(2) == 0,
        digest: random.below(6) == 0,
        keep: random.below(2) == 0,
        checkpoint_interval: 1 + random.below(8000),
        keepalive: Duration::from_nanos(random.below(2)),
        ..WriterOptions::default()
    }
}

/// Writes a random stream into this file.
fn write_stream(random: &mut Random, file: &File) {
    let options = options(random);
    let mut writer = writer_on(file.as_raw_fd(), None, &options).unwrap();
    for _ in 0..random.below(8) {
        let most = 1 << random.below(58);
        match random.below(3) {
            0 => {
                let length = 1 + random.below(1500) as usize;
                put(&mut writer, &random.bytes(length));
            }
            1 if options.keep => drop(writer.keep(1 + random.below(most)).unwrap()),
            _ => drop(writer.hole(1 + random.below(most)).unwrap()),
        }
        if random.below(4) == 0 {
            writer.flush(std::time::Instant::now()).unwrap();
        }
    }
    writer.finish().unwrap();
}

/// The sections that the reader finds in it, listed as the peer does, but for frames' borders.
fn read_stream(file: &File) -> String {
    // The writer's position is at the end.
    crate::sys::set_position(file.as_raw_fd(), 0).unwrap();
    let options = ReaderOptions { keep: true, ..ReaderOptions::default() };
    let mut reader = reader_on(file.as_raw_fd(), None, &options).unwrap();
    listing(|buffer| {
        let next = reader.next(buffer);
        if let Ok(Next::Hole(length) | Next::Keep(length)) = next {
            reader.consume(length);
        }
        next
    })
}

fn listing(mut next: impl FnMut(&mut [u8]) -> Result<Next>) -> String {
    let (mut text, mut at, mut buffer) = (String::new(), 0, vec![0; 5000]);
    loop {
        at += match next(&mut buffer) {
            Ok(Next::Data(count)) => {
                let hex: String =
                    buffer[..count].iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(text, "data {at} {hex}").unwrap();
                count as u64
            }
            Ok(Next::Hole(length)) => {
                writeln!(text, "hole {at} {length}").unwrap();
                length
            }
            Ok(Next::Keep(length)) => {
                writeln!(text, "keep {at} {length}").unwrap();
                length
            }
            Ok(Next::End) => {
                writeln!(text, "end {at}").unwrap();
                return merged(&text);
            }
            Err(_) => return "error\n".to_owned(),
        };
    }
}

/// One line for neighbours of one kind, and no reason of an error, nor what came before it.
fn merged(text: &str) -> String {
    let mut lines: Vec<(String, String, String)> = Vec::new();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let (kind, offset, what) = (word(), word(), word());
        match (kind.as_str(), lines.last_mut()) {
            ("error", _) => return "error\n".to_owned(),
            ("data", Some((last, _, all))) if last == "data" => all.push_str(&what),
            ("hole" | "keep", Some((last, _, all))) if *last == kind => {
                *all = (all.parse::<u64>().unwrap() + what.parse::<u64>().unwrap()).to_string();
            }
            _ => lines.push((kind, offset, what)),
        }
    }
    lines
        .iter()
        .fold(String::new(), |text, (kind, offset, what)| format!("{text}{kind} {offset} {what}\n"))
}

/// The peer with these arguments; `None` if there is no Python.
fn peer(arguments: &[String]) -> Option<std::process::Command> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/peer.py");
    let found = std::process::Command::new("python3").arg("-V").output().is_ok();
    if !found {
        println!("skipped: there is no python3");
        return None;
    }
    let mut command = std::process::Command::new("python3");
    command.arg(script).args(arguments);
    Some(command)
}

fn said(mut command: std::process::Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The peer's listing of each stream.
fn streams(output: &str) -> impl Iterator<Item = String> {
    output.split("file ").skip(1).map(|text| merged(text.split_once('\n').unwrap().1))
}

#[test]
fn the_python_peer_reads_a_thousand_streams_as_they_were_written() {
    let directory = Directory::new("read");
    let mut random = Random::new(20);
    let mut expected = Vec::new();
    let mut arguments = vec!["read".to_owned()];
    for number in 0..STREAMS {
        let path = directory.0.join(number.to_string());
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        write_stream(&mut random, &file);
        let size = file.metadata().unwrap().len();
        match random.below(10) {
            0 => {
                let at = random.below(size);
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                byte[0] ^= 1 << random.below(8);
                file.write_all_at(&byte, at).unwrap();
            }
            1 => file.set_len(random.below(size)).unwrap(),
            _ => {}
        }
        expected.push(read_stream(&file));
        arguments.push(path.to_str().unwrap().to_owned());
    }
    let Some(command) = peer(&arguments) else { return };
    let output = said(command);
    let mut refused = 0;
    let mut read = streams(&output);
    for (number, expected) in expected.iter().enumerate() {
        let text = read.next().unwrap();
        assert!(text == *expected, "stream {number}:\n{text}\nbut\n{expected}");
        refused += usize::from(expected == "error\n");
    }
    assert_eq!(read.next(), None);
    assert!((100..300).contains(&refused), "{refused} refused");
}

#[test]
fn a_thousand_streams_of_the_python_peer_are_read_as_it_wrote_them() {
    let directory = Directory::new("write");
    let path = directory.0.to_str().unwrap().to_owned();
    let Some(command) = peer(&["write".to_owned(), "30".to_owned(), STREAMS.to_string(), path])
    else {
        return;
    };
    let output = said(command);
    let mut count = 0;
    for (number, expected) in streams(&output).enumerate() {
        let text = read_stream(&File::open(directory.0.join(number.to_string())).unwrap());
        assert!(text == expected && text != "error\n", "stream {number}:\n{text}\nbut\n{expected}");
        count += 1;
    }
    assert_eq!(count, STREAMS);
}

/// Runs the peer at the other end of a socket. Returns its output.
fn beside(role: &str, seed: u64, body: impl FnOnce(&UnixStream)) -> Option<String> {
    let mut command = peer(&[role.to_owned(), seed.to_string()])?;
    let (near, far) = socket();
    command.stdin(std::os::fd::OwnedFd::from(far)).stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    // Its end of the socket is closed when it has ended.
    drop(command);
    body(&near);
    drop(near);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    streams(&text).next()
}

fn patient<T>(waiting: &UnixStream, mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(error) if error.would_block() => {
                let events = libc::POLLIN;
                crate::sys::poll(waiting.as_raw_fd(), events, Duration::from_millis(20)).unwrap();
            }
            Err(error) if error.interrupted() => {}
            other => return other,
        }
    }
}

#[test]
fn the_python_peer_answers_a_sender() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut expected = String::new();
        let text = beside("receive", seed, |near| {
            let fd = near.as_raw_fd();
            let options = WriterOptions { keep: true, ..options(&mut random) };
            let mut writer = writer_on(fd, Some(fd), &options).unwrap();
            let mut at = 0;
            for _ in 0..random.below(8) {
                let length = 1 + random.below(6000);
                match random.below(3) {
                    0 => {
                        let bytes = random.bytes(length as usize);
                        let mut done = 0;
                        while done < bytes.len() {
                            done += patient(near, || writer.write(&bytes[done..])).unwrap();
                        }
                        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                        writeln!(expected, "data {at} {hex}").unwrap();
                    }
                    1 => {
                        patient(near, || writer.hole(length)).unwrap();
                        writeln!(expected, "hole {at} {length}").unwrap();
                    }
                    _ => {
                        patient(near, || writer.keep(length)).unwrap();
                        writeln!(expected, "keep {at} {length}").unwrap();
                    }
                }
                at += length;
            }
            patient(near, || writer.finish()).unwrap();
            writeln!(expected, "end {at}").unwrap();
        });
        let Some(text) = text else { return };
        assert_eq!(text, merged(&expected), "seed {seed}");
    }
}

#[test]
fn the_python_peer_sends_to_a_receiver() {
    for seed in 100..112 {
        let mut received = String::new();
        let text = beside("send", seed, |near| {
            let fd = near.as_raw_fd();
            let options = ReaderOptions {
                keep: true,
                checksum: seed % 2 == 0,
                digest: seed % 3 == 0,
                ..ReaderOptions::default()
            };
            let mut reader = reader_on(fd, Some(fd), &options).unwrap();
            received = listing(|buffer| {
                let next = patient(near, || reader.next(buffer));
                if let Ok(Next::Hole(length) | Next::Keep(length)) = next {
                    reader.consume(length);
                }
                next
            });
            patient(near, || reader.finish()).unwrap();
        });
        let Some(text) = text else { return };
        assert_eq!(text, received, "seed {seed}");
    }
}
