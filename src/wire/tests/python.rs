//! A peer in another language, written from the documents alone, reads what is written here and refuses
//! what is refused here, and the other way around.

use super::*;
use crate::end::Held as _;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

/// Streams of each direction, one-way.
const STREAMS: u64 = 1000;
/// Streams of each direction that are answered.
const TWO_WAY: u64 = 240;

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

fn listing(next: impl FnMut(&mut [u8]) -> Result<Next>) -> String {
    listing_from(0, next)
}

fn listing_from(start: u64, mut next: impl FnMut(&mut [u8]) -> Result<Next>) -> String {
    let (mut text, mut at, mut buffer) = (String::new(), start, vec![0; 5000]);
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
    let listed = output.split_once("\ncount ").map_or(output, |(listed, _)| listed);
    // An error's reason may have any words.
    let first = listed.strip_prefix("file ").unwrap();
    first.split("\nfile ").map(|text| merged(text.split_once('\n').unwrap().1))
}

/// Each of these has occurred in the peer's streams, by its own count, at least as often.
fn occurred(output: &str, least: &[(&str, u64)]) {
    for (kind, least) in least {
        let line = format!("count {kind}: ");
        let count = output.lines().find_map(|text| text.strip_prefix(&line));
        let count: u64 = count.map_or(0, |count| count.parse().unwrap());
        assert!(count >= *least, "{kind}: {count} times, and {least} are needed");
    }
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
    occurred(&output, &READ_OR_WRITTEN);
    occurred(&output, &[("error", 100)]);
}

/// The least of each kind in the streams that are read or written one-way.
const READ_OR_WRITTEN: [(&str, u64); 8] = [
    ("streams", 900),
    ("end", 700),
    ("data", 800),
    ("hole", 800),
    ("keep", 500),
    ("checkpoint", 10),
    ("with checksums", 300),
    ("with digest", 100),
];

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
    occurred(&output, &READ_OR_WRITTEN);
}

/// Runs the peer at a listening socket, and `body` beside each of its streams. Returns its output.
fn beside(
    arguments: &[String],
    directory: &Directory,
    mut body: impl FnMut(u64, &UnixStream),
) -> Option<String> {
    let mut command = peer(arguments)?;
    let path = directory.0.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    command.stdin(std::os::fd::OwnedFd::from(listener)).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut stdout = child.stdout.take().unwrap();
    let output = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    for number in 0..TWO_WAY {
        body(number, &UnixStream::connect(&path).unwrap());
    }
    assert!(child.wait().unwrap().success());
    Some(output.join().unwrap().unwrap())
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

/// A short section of a stream.
#[derive(Debug, Clone)]
enum Short {
    Data(Vec<u8>),
    Hole(u64),
    Keep(u64),
}

impl Short {
    fn random(random: &mut Random, keeps: bool) -> Self {
        let length = 1 + random.below(3000);
        match random.below(3) {
            0 => Short::Data(random.bytes(length as usize)),
            1 if keeps => Short::Keep(length),
            _ => Short::Hole(length),
        }
    }

    fn length(&self) -> u64 {
        match self {
            Short::Data(bytes) => bytes.len() as u64,
            Short::Hole(length) | Short::Keep(length) => *length,
        }
    }

    /// It without its first bytes.
    fn behind(&self, count: u64) -> Self {
        match self {
            Short::Data(bytes) => Short::Data(bytes[count as usize..].to_vec()),
            Short::Hole(length) => Short::Hole(length - count),
            Short::Keep(length) => Short::Keep(length - count),
        }
    }
}

/// The bytes of sections that keep nothing.
fn dense(sections: &[Short]) -> Vec<u8> {
    sections
        .iter()
        .flat_map(|section| match section {
            Short::Data(bytes) => bytes.clone(),
            Short::Hole(length) | Short::Keep(length) => vec![0; *length as usize],
        })
        .collect()
}

/// The sections of a listing that keeps nothing.
fn sections_of(listing: &str) -> Vec<Short> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let mut sections = Vec::new();
    for line in listing.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "data" => sections.push(Short::Data(words[2].as_bytes().chunks(2).map(byte).collect())),
            "hole" => sections.push(Short::Hole(words[2].parse().unwrap())),
            _ => {}
        }
    }
    sections
}

/// The part of some content that a receiver holds: some of it, all of it or none, and in some cases damaged.
fn part(random: &mut Random, content: &[u8]) -> Vec<u8> {
    let length = random.below(content.len() as u64 + 1) as usize;
    let mut part = content[..length].to_vec();
    if length > 0 && random.below(3) == 0 {
        part[random.below(length as u64) as usize] ^= 0x40;
    }
    part
}

/// Sends these sections; those that the receiver holds are only compared. The listing of the rest.
fn send(near: &UnixStream, writer: &mut Writer, sections: &[Short]) -> Result<String> {
    let held = patient(near, || writer.open(&Plan::default()))?.held;
    if held > 0 {
        writer.check(&dense(sections)[..held as usize]);
    }
    let start = if held > 0 && patient(near, || writer.agrees())? { held } else { 0 };
    let (mut text, mut at) = (String::new(), 0);
    for section in sections {
        let end = at + section.length();
        let offset = start.clamp(at, end);
        let rest = section.behind(offset - at);
        at = end;
        match &rest {
            rest if rest.length() == 0 => {}
            Short::Data(bytes) => {
                let mut done = 0;
                while done < bytes.len() {
                    done += patient(near, || writer.write(&bytes[done..]))?;
                }
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(text, "data {offset} {hex}").unwrap();
            }
            Short::Hole(length) => {
                patient(near, || writer.hole(*length))?;
                writeln!(text, "hole {offset} {length}").unwrap();
            }
            Short::Keep(length) => {
                patient(near, || writer.keep(*length))?;
                writeln!(text, "keep {offset} {length}").unwrap();
            }
        }
    }
    patient(near, || writer.finish())?;
    writeln!(text, "end {at}").unwrap();
    Ok(merged(&text))
}

/// The least of each kind in the streams that the peer answers, and that it sends and has answered.
const ANSWERED: [(&str, u64); 11] = [
    ("streams", TWO_WAY - TWO_WAY / 4),
    ("two-way", TWO_WAY - TWO_WAY / 4),
    ("data", 100),
    ("hole", 100),
    ("keep", 30),
    ("checkpoint", 20),
    ("with checksums", 30),
    ("with digest", 30),
    ("resumed", 10),
    ("restarted", 2),
    ("error", 2),
];

#[test]
fn the_python_peer_answers_a_sender() {
    let directory = Directory::new("receive");
    let path = directory.0.to_str().unwrap().to_owned();
    let mut expected = Vec::new();
    let arguments = ["receive".to_owned(), "1".to_owned(), TWO_WAY.to_string(), path];
    let output = beside(&arguments, &directory, |number, near| {
        let mut random = Random::new(number);
        let resume = number % 2 == 1;
        let sections: Vec<Short> =
            (0..random.below(8)).map(|_| Short::random(&mut random, !resume)).collect();
        let options = WriterOptions {
            keep: !resume,
            resume,
            restart: random.below(4) > 0,
            ..options(&mut random)
        };
        if resume {
            let held = part(&mut random, &dense(&sections));
            std::fs::write(directory.0.join(number.to_string()), held).unwrap();
        }
        let fd = near.as_raw_fd();
        let mut writer = writer_on(fd, Some(fd), &options).unwrap();
        expected.push(send(near, &mut writer, &sections).unwrap_or_else(|error| {
            assert_eq!(error.errno(), libc::ESTALE, "stream {number}: {error}");
            "error\n".to_owned()
        }));
    });
    let Some(output) = output else { return };
    let heard: Vec<String> = streams(&output).collect();
    assert_eq!(heard.len(), expected.len());
    for (number, (heard, expected)) in heard.iter().zip(&expected).enumerate() {
        assert_eq!(heard, expected, "stream {number}");
    }
    occurred(&output, &ANSWERED);
}

#[test]
fn the_python_peer_sends_to_a_receiver() {
    let directory = Directory::new("send");
    let (mut received, mut before) = (Vec::new(), String::new());
    let arguments = ["send".to_owned(), "100".to_owned(), TWO_WAY.to_string()];
    let output = beside(&arguments, &directory, |number, near| {
        // Each stream comes twice: the second time, a part of it may be there.
        let mut random = Random::new(number);
        let content = if number % 4 == 3 { dense(&sections_of(&before)) } else { vec![] };
        let (file, held_bytes) = (crate::testing::file(), part(&mut random, &content));
        file.write_all_at(&held_bytes, 0).unwrap();
        let options = ReaderOptions {
            keep: true,
            checksum: number % 3 == 0,
            digest: number % 5 == 0,
            held: (!held_bytes.is_empty()).then(|| held(&file, held_bytes.len() as u64)),
            restart: random.below(2) == 0,
            ..ReaderOptions::default()
        };
        let fd = near.as_raw_fd();
        let mut reader = reader_on(fd, Some(fd), &options).unwrap();
        before = match patient(near, || reader.open()) {
            Ok(info) => {
                let text = listing_from(info.start, |buffer| {
                    let next = patient(near, || reader.next(buffer));
                    if let Ok(Next::Hole(length) | Next::Keep(length)) = next {
                        reader.consume(length);
                    }
                    next
                });
                patient(near, || reader.finish()).unwrap();
                text
            }
            Err(error) => {
                assert_eq!(error.errno(), libc::ESTALE, "stream {number}: {error}");
                "error\n".to_owned()
            }
        };
        received.push(before.clone());
    });
    let Some(output) = output else { return };
    let sent: Vec<String> = streams(&output).collect();
    assert_eq!(sent.len(), received.len());
    for (number, (sent, received)) in sent.iter().zip(&received).enumerate() {
        assert_eq!(sent, received, "stream {number}");
    }
    occurred(&output, &ANSWERED);
}
