//! A decoder in another language, written from the document alone, reads what is written here, and
//! refuses what is refused here.

use super::*;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

const STREAMS: u64 = 1000;

/// A directory that is gone afterwards.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("sparsestream-wire-{}", std::process::id()));
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

/// Writes a random stream into this file.
fn write_stream(random: &mut Random, file: &File) {
    let options = WriterOptions {
        checksum: random.below(2) == 0,
        digest: random.below(2) == 0,
        checkpoint_interval: 1 + random.below(2000),
        keepalive: Duration::from_nanos(random.below(2)),
        ..WriterOptions::default()
    };
    let mut writer = writer_on(file.as_raw_fd(), None, &options).unwrap();
    for _ in 0..random.below(8) {
        if random.below(2) == 0 {
            let length = 1 + random.below(1500) as usize;
            put(&mut writer, &random.bytes(length));
        } else {
            let most = 1 << random.below(58);
            writer.hole(1 + random.below(most)).unwrap();
        }
        if random.below(4) == 0 {
            writer.flush(std::time::Instant::now()).unwrap();
        }
    }
    writer.finish().unwrap();
}

/// What the reader makes of it, as the decoder says it, but for frames' borders.
fn read_stream(file: &File) -> String {
    crate::sys::set_position(file.as_raw_fd(), 0).unwrap();
    let mut reader = reader_on(file.as_raw_fd(), None, &ReaderOptions::default()).unwrap();
    let (mut text, mut at, mut buffer) = (String::new(), 0, vec![0; 5000]);
    loop {
        match reader.next(&mut buffer) {
            Ok(Next::Data(count)) => {
                write!(text, "data {at} ").unwrap();
                for byte in &buffer[..count] {
                    write!(text, "{byte:02x}").unwrap();
                }
                text.push('\n');
                at += count as u64;
            }
            Ok(Next::Hole(length)) => {
                reader.consume(length);
                writeln!(text, "hole {at} {length}").unwrap();
                at += length;
            }
            Ok(Next::Keep(_)) => unreachable!("nothing is kept"),
            Ok(Next::End) => {
                writeln!(text, "end {at}").unwrap();
                return merged(&text);
            }
            Err(_) => return "error\n".to_owned(),
        }
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
            ("hole", Some((last, _, all))) if last == "hole" => {
                *all = (all.parse::<u64>().unwrap() + what.parse::<u64>().unwrap()).to_string();
            }
            _ => lines.push((kind, offset, what)),
        }
    }
    lines
        .iter()
        .fold(String::new(), |text, (kind, offset, what)| format!("{text}{kind} {offset} {what}\n"))
}

#[test]
fn the_python_decoder_agrees_on_a_thousand_streams() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/decoder.py");
    let directory = Directory::new();
    let mut random = Random::new(20);
    let mut expected = Vec::new();
    let mut command = std::process::Command::new("python3");
    command.arg(script);
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
        command.arg(path);
    }
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: there is no python3");
            return;
        }
        other => other.unwrap(),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    let mut decoded = output.split("file ").skip(1);
    let mut refused = 0;
    for (number, expected) in expected.iter().enumerate() {
        let (_name, text) = decoded.next().unwrap().split_once('\n').unwrap();
        assert!(merged(text) == *expected, "stream {number}:\n{text}\nbut\n{expected}");
        refused += usize::from(expected == "error\n");
    }
    assert_eq!(decoded.next(), None);
    assert!((100..300).contains(&refused), "{refused} refused");
}
