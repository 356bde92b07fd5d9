use super::*;
use crate::testing::Random;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// A file with O_DIRECT and the same file without, if the file system has direct I/O.
fn direct_file(write_only: bool) -> Option<(File, File)> {
    // The temporary directory may be in memory.
    for directory in [std::env::temp_dir(), "/var/tmp".into(), ".".into()] {
        let thread = std::thread::current().id();
        let path = directory.join(format!("sparsestream-direct-{}-{thread:?}", std::process::id()));
        let plain = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let direct =
            File::options().read(!write_only).write(true).custom_flags(libc::O_DIRECT).open(&path);
        std::fs::remove_file(&path).unwrap();
        if let Ok(direct) = direct {
            if let Ok(Some(_)) = Alignment::of(direct.as_raw_fd(), FileKind::Regular) {
                return Some((direct, plain));
            }
        }
    }
    println!("skipped: no directory for temporary files has direct I/O");
    None
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 + 1).collect()
}

#[test]
fn a_descriptor_without_o_direct_needs_no_alignment() {
    let file = crate::testing::file();
    assert_eq!(Alignment::of(file.as_raw_fd(), FileKind::Regular), Ok(None));
}

#[test]
fn a_block_is_found_where_statx_does_not_report_it() {
    let Some((direct, plain)) = direct_file(false) else { return };
    plain.write_all_at(&content(200_000), 0).unwrap();
    let no_statx = |call| match call {
        sys::Call::Statx => sys::inject::Fault::Errno(libc::ENOSYS),
        _ => sys::inject::Fault::None,
    };
    let reported = Alignment::of(direct.as_raw_fd(), FileKind::Regular).unwrap().unwrap();
    let found =
        sys::inject::with(no_statx, || Alignment::of(direct.as_raw_fd(), FileKind::Regular));
    let found = found.unwrap().unwrap();
    assert_eq!(found.block % reported.block, 0);
    assert!(found.block <= 4096 && found.memory >= reported.memory, "{found:?} {reported:?}");
}

#[test]
fn any_offset_length_and_memory_can_be_read() {
    let Some((direct, plain)) = direct_file(false) else { return };
    let bytes = content(1_000_003);
    plain.write_all_at(&bytes, 0).unwrap();
    let alignment = Alignment::of(direct.as_raw_fd(), FileKind::Regular).unwrap().unwrap();
    let mut reader = Reader::new(direct.as_raw_fd(), alignment);
    let mut random = Random::new(1);
    for _ in 0..300 {
        let at = random.below(bytes.len() as u64 + 10);
        let mut buffer = vec![0; random.below(70_000) as usize + 1];
        let skip = random.below(9).min(buffer.len() as u64 - 1) as usize;
        let count = reader.read(&mut buffer[skip..], at).unwrap();
        let left = bytes.len().saturating_sub(at as usize);
        assert!(count <= left && (count > 0 || left == 0), "{count} at {at}");
        assert!(buffer[skip..skip + count] == bytes[bytes.len() - left..][..count], "{at}");
    }
}

#[test]
fn any_offset_and_length_can_be_written_and_nothing_else_changes() {
    let Some((direct, plain)) = direct_file(false) else { return };
    let alignment = Alignment::of(direct.as_raw_fd(), FileKind::Regular).unwrap().unwrap();
    let mut random = Random::new(2);
    for _ in 0..50 {
        let old = content(random.below(30_000) as usize);
        plain.set_len(0).unwrap();
        plain.write_all_at(&old, 0).unwrap();
        let mut writer = Writer::new(direct.as_raw_fd(), alignment, old.len() as u64).unwrap();
        let start = random.below(old.len() as u64 + 1);
        let mut expected = old.clone();
        let mut at = start;
        for _ in 0..random.below(6) + 1 {
            let piece = vec![b'N'; random.below(20_000) as usize + 1];
            let mut done = 0;
            while done < piece.len() {
                done += writer.write(&piece[done..], at + done as u64).unwrap();
            }
            let end = at as usize + piece.len();
            expected.resize(expected.len().max(end), 0);
            expected[at as usize..end].copy_from_slice(&piece);
            at = end as u64;
        }
        writer.leave().unwrap();
        let size = plain.metadata().unwrap().len();
        assert!(size >= expected.len() as u64 && size < expected.len() as u64 + alignment.block);
        assert!(size == expected.len() as u64 || writer.padded() == size);
        let mut found = vec![0; size as usize];
        plain.read_exact_at(&mut found, 0).unwrap();
        assert!(found[..expected.len()] == expected);
        assert!(found[expected.len()..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn the_rest_of_a_block_that_cannot_be_read_is_not_overwritten() {
    let Some((direct, plain)) = direct_file(true) else { return };
    let old = content(65_536);
    plain.write_all_at(&old, 0).unwrap();
    plain.sync_all().unwrap();
    let alignment = Alignment::of(direct.as_raw_fd(), FileKind::Regular).unwrap().unwrap();
    let mut writer = Writer::new(direct.as_raw_fd(), alignment, old.len() as u64).unwrap();
    assert_eq!(writer.write(&[1; 100], 100), Err(BLIND));
    assert_eq!(writer.write(&[1; 100], 0), Ok(100));
    assert_eq!(writer.leave(), Err(BLIND));
    let mut found = vec![0; old.len()];
    plain.read_exact_at(&mut found, 0).unwrap();
    assert!(found == old);
}

/// The same file, opened with more flags.
fn anew(file: &File, flags: i32) -> File {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().write(true).custom_flags(libc::O_DIRECT | flags).open(path).unwrap()
}

/// Moves a range of one file to a place in another, with the descriptors that are given.
fn moved(from: (&File, u64, u64), to: (&File, u64), known: bool) -> crate::error::Result<()> {
    use crate::transfer::{Options, Patience, Transfer};
    let source = crate::source::Options { offset: from.1, length: from.2, ..Default::default() };
    let mut source = crate::source::from_fd(from.0.as_raw_fd(), &source)?;
    let sink = crate::sink::Options { offset: to.1, ..Default::default() };
    let mut sink = crate::sink::from_fd(to.0.as_raw_fd(), &sink, ())?;
    let mut transfer = Transfer::new(&Options {
        detect_zeroes: known,
        zero_block: 4096,
        request_size: 8192,
        depth: 5,
        ..Default::default()
    })?;
    transfer.run(&mut *source, &mut *sink, &mut (), None, Patience::Any).map(drop)
}

fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn any_range_of_a_sparse_file_can_be_moved_over_any_content() {
    let (Some((from, from_plain)), Some((to, to_plain))) = (direct_file(false), direct_file(false))
    else {
        return;
    };
    let mut random = Random::new(3);
    for round in 0..80 {
        from_plain.set_len(0).unwrap();
        let mut at = 0;
        for _ in 0..random.below(8) {
            let length = random.below(40_000) + 1;
            if random.once_in(2) {
                from_plain.write_all_at(&content(length as usize), at).unwrap();
            }
            at += length;
        }
        from_plain.set_len(at).unwrap();
        let old = content(random.below(150_000) as usize);
        to_plain.set_len(0).unwrap();
        to_plain.write_all_at(&old, 0).unwrap();
        if at == 0 {
            continue;
        }
        let offset = random.below(at);
        let length = random.below(at - offset) + 1;
        let target =
            if random.once_in(3) { random.below(32) * 4096 } else { random.below(160_000) };
        let mut expected = old;
        let end = (target + length) as usize;
        expected.resize(expected.len().max(end), 0);
        let piece = &bytes_of(&from_plain)[offset as usize..][..length as usize];
        expected[target as usize..end].copy_from_slice(piece);
        let sinks = [&to, &to_plain];
        let sources = [&from, &from_plain];
        let sink = sinks[usize::from(random.once_in(4))];
        let source = sources[usize::from(random.once_in(4))];
        moved((source, offset, length), (sink, target), random.once_in(2)).unwrap();
        let found = bytes_of(&to_plain);
        assert_eq!(found.len(), expected.len(), "round {round}");
        assert!(found == expected, "round {round}: {offset} {length} to {target}");
    }
}

#[test]
fn a_stream_that_would_need_to_read_a_block_is_refused_before_a_byte_moves() {
    let Some((to, to_plain)) = direct_file(true) else { return };
    let from = crate::testing::sparse(&[crate::testing::Piece::Data(4)]);
    let old = content(1 << 20);
    to_plain.write_all_at(&old, 0).unwrap();
    for (length, offset) in [(65_536, 100), (65_537, 4096)] {
        let error = moved((&from, 0, length), (&to, offset), false).unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL);
        assert!(error.to_string().contains("O_DIRECT needs multiples of "), "{error}");
        assert!(bytes_of(&to_plain) == old);
    }
    // At the end of the file there is nothing to keep.
    moved((&from, 0, 65_537), (&to, (1 << 20) - 65_536), false).unwrap();
    assert_eq!(to_plain.metadata().unwrap().len(), (1 << 20) + 1);
}

#[test]
fn a_stream_that_begins_beyond_the_end_needs_no_read() {
    let Some((to, to_plain)) = direct_file(true) else { return };
    let from = crate::testing::sparse(&[crate::testing::Piece::Data(4)]);
    let old = content(100);
    for offset in [4097, 70_001, 1 << 20] {
        to_plain.set_len(0).unwrap();
        to_plain.write_all_at(&old, 0).unwrap();
        moved((&from, 0, 10_001), (&to, offset), false).unwrap();
        let mut expected = old.clone();
        expected.resize(offset as usize, 0);
        expected.extend_from_slice(&bytes_of(&from)[..10_001]);
        assert!(bytes_of(&to_plain) == expected, "{offset}");
    }
}

#[test]
fn a_failure_before_the_first_byte_leaves_the_size_as_it_was() {
    let Some((to, to_plain)) = direct_file(false) else { return };
    let from = crate::testing::sparse(&[crate::testing::Piece::Data(64)]);
    let old = content(100);
    to_plain.write_all_at(&old, 0).unwrap();
    let no_space = |call| match call {
        sys::Call::UringResult | sys::Call::Pwrite => sys::inject::Fault::Errno(libc::ENOSPC),
        _ => sys::inject::Fault::None,
    };
    let failed = sys::inject::with(no_space, || moved((&from, 0, 200_000), (&to, 70_001), false));
    assert_eq!(failed.unwrap_err().errno(), libc::ENOSPC);
    assert!(bytes_of(&to_plain) == old, "{} bytes", bytes_of(&to_plain).len());
}

#[test]
fn a_file_with_o_append_is_refused_before_a_byte_moves() {
    let Some((to, to_plain)) = direct_file(false) else { return };
    let from = crate::testing::sparse(&[crate::testing::Piece::Data(4)]);
    let appending = anew(&to, libc::O_APPEND);
    for old in [content(0), content(100), content(4096)] {
        to_plain.set_len(0).unwrap();
        to_plain.write_all_at(&old, 0).unwrap();
        let error = moved((&from, 0, 10_001), (&appending, 0), false).unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL);
        assert!(error.to_string().contains("O_DIRECT needs multiples of "), "{error}");
        assert!(bytes_of(&to_plain) == old);
    }
}
