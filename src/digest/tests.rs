use super::*;
use crate::testing::Random;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// A section in the notation of docs/digest.md.
#[derive(Debug, Clone, PartialEq)]
enum Section {
    Data(Vec<u8>),
    Hole(u64),
    Keep(u64),
}

fn section(text: &str) -> Section {
    let (kind, what) = text.split_once(':').expect("a kind");
    let pair = || what.split_once('*').expect("a count");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let hex = |text: &str| u8::from_str_radix(text, 16).expect("a byte");
    match kind {
        "data" => {
            Section::Data((0..what.len()).step_by(2).map(|at| hex(&what[at..at + 2])).collect())
        }
        "byte" => Section::Data(vec![hex(pair().0); number(pair().1) as usize]),
        "count" => counting(number(pair().0), number(pair().1)),
        "hole" => Section::Hole(number(what)),
        "keep" => Section::Keep(number(what)),
        _ => panic!("{text} is not a section"),
    }
}

fn counting(seed: u64, count: u64) -> Section {
    Section::Data((0..count).map(|at| ((seed + at) % 251) as u8).collect())
}

fn hex(hash: &Hash) -> String {
    hash.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn of(sections: &[Section]) -> Digest {
    let mut digest = Digest::default();
    for section in sections {
        match section {
            Section::Data(bytes) => digest.data(bytes),
            Section::Hole(length) => digest.hole(*length),
            Section::Keep(length) => digest.keep(*length),
        }
    }
    digest
}

/// Sections at random, around the edges of blocks, and their notation.
fn random_stream(random: &mut Random) -> (Vec<Section>, String) {
    let mut text = String::new();
    for _ in 0..random.below(9) {
        let block = BLOCK as u64;
        let length = match random.below(5) {
            0 => 1 + random.below(100),
            1 => block - random.below(3),
            2 => block + random.below(3),
            3 => 1 + random.below(3 * block),
            _ => block * (1 + random.below(2)),
        };
        match random.below(6) {
            0 => write!(text, " hole:{length}"),
            1 => write!(text, " hole:{}", length << random.below(30)),
            2 => write!(text, " keep:{length}"),
            3 => write!(text, " byte:00*{length}"),
            // Few seeds, and runs of one byte, so that the Python implementation meets blocks that it
            // has hashed already.
            4 => write!(text, " count:{}*{length}", random.below(2)),
            _ => write!(text, " byte:61*{length}"),
        }
        .unwrap();
    }
    (text.split_whitespace().map(section).collect(), text)
}

#[test]
fn vectors_of_the_document() {
    let document = include_str!("../../docs/digest.md");
    let (_, vectors) = document.split_once("<!-- vectors -->\n```\n").expect("the mark");
    let (vectors, _) = vectors.split_once("```").expect("their end");
    let mut count = 0;
    for line in vectors.lines().filter(|line| !line.starts_with('#')) {
        let (root, sections) = line.split_once(' ').unwrap_or((line, ""));
        let sections: Vec<_> = sections.split_whitespace().map(section).collect();
        assert_eq!(hex(&of(&sections).root()), root, "{line}");
        count += 1;
    }
    assert!(count >= 20, "{count} vectors");
    python(vectors.to_owned(), count);
}

#[test]
fn the_python_implementation_agrees_on_random_streams() {
    let mut random = Random::new(13);
    let mut lines = String::new();
    for _ in 0..100 {
        let (sections, text) = random_stream(&mut random);
        writeln!(lines, "{}{text}", hex(&of(&sections).root())).unwrap();
    }
    python(lines, 100);
}

/// Has the second implementation check these lines.
fn python(lines: String, count: usize) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/digest/reference.py");
    let child = Command::new("python3")
        .args([script, "check"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: there is no python3");
            return;
        }
        other => other.unwrap(),
    };
    let mut stdin = child.stdin.take().unwrap();
    // One that stops at a wrong line reads no more.
    let written = stdin.write_all(lines.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    written.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), count.to_string());
}

#[test]
fn pieces_make_no_difference() {
    let mut random = Random::new(14);
    for _ in 0..100 {
        let (sections, text) = random_stream(&mut random);
        let mut pieces = Vec::new();
        for section in &sections {
            match section {
                Section::Data(bytes) => {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let (piece, after) =
                            rest.split_at(1 + random.below(rest.len() as u64) as usize);
                        rest = after;
                        // Zeros may as well come as a hole.
                        match is_zero(piece) && random.once_in(2) {
                            true => pieces.push(Section::Hole(piece.len() as u64)),
                            false => pieces.push(Section::Data(piece.to_vec())),
                        }
                        pieces.push(Section::Data(Vec::new()));
                    }
                }
                Section::Hole(length) => {
                    let first = random.below(length + 1);
                    pieces.extend([Section::Hole(first), Section::Hole(length - first)]);
                }
                Section::Keep(length) => {
                    let first = random.below(length + 1);
                    pieces.extend([
                        Section::Keep(first),
                        Section::Hole(0),
                        Section::Keep(length - first),
                    ]);
                }
            }
        }
        assert_eq!(of(&pieces).root(), of(&sections).root(), "{text}");
        assert_eq!(of(&pieces).state(), of(&sections).state(), "{text}");
    }
}

#[test]
fn a_root_on_the_way_is_that_of_a_stream_that_ends_there() {
    let bytes: Vec<u8> = (0..3 * BLOCK).map(|at| if at % 99 == 0 { 1 } else { 0 }).collect();
    let mut digest = Digest::default();
    let mut at = 0;
    while at < bytes.len() {
        assert_eq!(digest.root(), of(&[Section::Data(bytes[..at].to_vec())]).root(), "{at}");
        let next = (at + 7001).min(bytes.len());
        digest.data(&bytes[at..next]);
        at = next;
    }
    assert_eq!(digest.root(), of(&[Section::Data(bytes)]).root());
}

#[test]
fn a_digest_is_resumed_at_any_offset() {
    let mut random = Random::new(15);
    for _ in 0..200 {
        let (before, text) = random_stream(&mut random);
        let (after, more) = random_stream(&mut random);
        let mut whole = of(&before);
        let state = State::unpack(&whole.state().pack()).expect("a state");
        assert_eq!(state, whole.state());
        assert_eq!(state.offset(), whole.offset());
        // The bytes before the offset, from the end of the stream backward.
        let mut open = Vec::new();
        for section in before.iter().rev() {
            let left = state.open() - open.len();
            match section {
                Section::Data(bytes) => open.extend(bytes.iter().rev().take(left)),
                Section::Hole(length) | Section::Keep(length) => {
                    open.resize(open.len() + left.min(*length as usize), 0);
                }
            }
        }
        open.reverse();
        let mut resumed = Digest::resume(&state, &open).expect("the right length");
        assert_eq!(resumed.root(), whole.root(), "{text}");
        for section in &after {
            for digest in [&mut resumed, &mut whole] {
                match section {
                    Section::Data(bytes) => digest.data(bytes),
                    Section::Hole(length) => digest.hole(*length),
                    Section::Keep(length) => digest.keep(*length),
                }
            }
        }
        assert_eq!(resumed.root(), whole.root(), "{text}, then {more}");
    }
}

#[test]
fn only_the_open_block_resumes_a_digest() {
    let mut digest = Digest::default();
    digest.data(&[1; BLOCK + 10]);
    let state = digest.state();
    assert_eq!(state.open(), 10);
    for length in [0, 9, 11, BLOCK + 10] {
        assert_eq!(Digest::resume(&state, &vec![1; length]).map(|_| ()), Err(Misplaced));
    }
    assert_ne!(Digest::resume(&state, &[2; 10]).unwrap().root(), digest.root());
}

#[test]
fn a_packed_state_that_no_digest_has_is_refused() {
    let mut digest = Digest::default();
    digest.keep(3 * BLOCK as u64 + 5);
    let packed = digest.state().pack();
    assert!(State::unpack(&packed).is_some());
    let with = |at: usize, value: u64| {
        let mut packed = packed;
        packed[at..at + 8].copy_from_slice(&value.to_le_bytes());
        State::unpack(&packed)
    };
    let block = BLOCK as u64;
    assert_eq!(with(40, 4 * block), None, "a zero run longer than the stream");
    assert_eq!(with(40, 1), None, "a zero run of a part of a block");
    assert_eq!(with(80, 3 * block + 6), None, "a kept range longer than the stream");
    assert_eq!(with(0, 2 * block), None, "an offset within the zero run");
}

#[test]
fn blocks_are_hashed_out_of_order_and_chained_in_order() {
    let bytes: Vec<u8> =
        (0..8 * BLOCK).map(|at| if at / BLOCK % 3 == 1 { 0 } else { at as u8 }).collect();
    let mut blocks: Vec<_> = bytes.chunks_exact(BLOCK).enumerate().rev().collect();
    let mut hashed: Vec<_> =
        blocks.drain(..).map(|(at, bytes)| (at, block(bytes.try_into().unwrap()))).collect();
    hashed.sort_by_key(|(at, _)| *at);
    let mut digest = Digest::default();
    for (_, block) in hashed {
        digest.block(block).expect("at the start of a block");
    }
    assert_eq!(digest.root(), of(&[Section::Data(bytes)]).root());
    digest.data(b"x");
    let before = digest.root();
    assert_eq!(digest.block(Block::Zeros), Err(Misplaced));
    assert_eq!(digest.root(), before);
}

#[test]
fn a_block_ends_a_kept_range() {
    let mut blocks = Digest::default();
    let mut bytes = Digest::default();
    for digest in [&mut blocks, &mut bytes] {
        digest.keep(BLOCK as u64);
    }
    blocks.block(Block::Zeros).expect("at the start of a block");
    bytes.data(&[0; BLOCK]);
    for digest in [&mut blocks, &mut bytes] {
        digest.keep(1);
    }
    assert_eq!(blocks.root(), bytes.root());
}

#[test]
fn any_byte_and_any_length_change_the_digest() {
    let mut bytes = vec![0; 2 * BLOCK + 100];
    bytes[BLOCK + 5] = 1;
    let mut seen = std::collections::HashSet::from([of(&[Section::Data(bytes.clone())]).root()]);
    for at in (0..bytes.len()).step_by(997).chain([BLOCK - 1, BLOCK, 2 * BLOCK, bytes.len() - 1]) {
        bytes[at] ^= 0x80;
        assert!(seen.insert(of(&[Section::Data(bytes.clone())]).root()), "{at}");
        bytes[at] ^= 0x80;
    }
    for more in [1, 2, BLOCK, 1 << 20] {
        let longer = [Section::Data(bytes.clone()), Section::Hole(more as u64)];
        assert!(seen.insert(of(&longer).root()), "{more} more");
    }
}

/// Who chooses the content of an image chooses its CRC: eight bytes give it any value. Earlier versions
/// of the wire took a CRC-64 as the proof that what a receiver holds is the start of the source.
#[test]
fn eight_bytes_that_forge_a_crc_64_do_not_forge_the_digest() {
    const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
    let register = |bytes: &[u8]| {
        bytes.iter().fold(u64::MAX, |register, byte| {
            (0..8).fold(register ^ u64::from(*byte), |value, _| {
                (value >> 1) ^ (POLYNOMIAL & (value & 1).wrapping_neg())
            })
        })
    };
    assert_eq!(!register(b"123456789"), 0x995d_c9bb_df19_39fa, "the CRC-64 of xz");
    // The register that becomes this one by 64 bits of zeros.
    let back = |register: u64| {
        (0..64).fold(register, |value, _| match value >> 63 {
            0 => value << 1,
            _ => (value ^ POLYNOMIAL) << 1 | 1,
        })
    };

    let honest = [&b"PermitRootLogin no "[..], &[b'.'; 100]].concat();
    let mut forged = [&b"PermitRootLogin yes"[..], &[b'.'; 92]].concat();
    forged.extend((register(&forged) ^ back(register(&honest))).to_le_bytes());
    assert_eq!(forged.len(), honest.len());
    assert_ne!(forged, honest);
    assert_eq!(register(&forged), register(&honest), "the CRC is forged");
    assert_ne!(of(&[Section::Data(forged)]).root(), of(&[Section::Data(honest)]).root());
}
