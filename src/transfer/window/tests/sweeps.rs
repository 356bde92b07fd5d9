//! Holes that are zeroed together.

use super::*;

const TOOTH: u64 = 4096;
const TEETH: u64 = 64;

/// A comb of data and holes, which both ends show, or a copy of it and old content.
fn comb(one_disk: bool, seed: u64) -> (Memory, Memory, Vec<u8>) {
    let mut random = Random::new(seed);
    let (mut source, mut sink, _) = two_ends(seed, false);
    let total = (2 * TEETH * TOOTH) as usize;
    let mut bytes = vec![0; total];
    for (at, byte) in bytes.iter_mut().enumerate() {
        if at as u64 / TOOTH % 2 == 1 {
            *byte = random.below(255) as u8 + 1;
        }
    }
    source.sections.clear();
    for nth in 0..2 * TEETH {
        let kind = if nth % 2 == 0 { Kind::Hole } else { Kind::Data };
        source.sections.push(Section::new(kind, nth * TOOTH, TOOTH));
    }
    *source.content.lock().unwrap() = bytes.clone();
    *sink.content.lock().unwrap() = vec![0xdd; total];
    if one_disk {
        sink.content = Arc::clone(&source.content);
    }
    for end in [&mut source, &mut sink] {
        end.size = total as u64;
        end.habits.unruly = false;
        end.habits.depth = 64;
    }
    (source, sink, bytes)
}

fn options() -> Options {
    Options { request_size: 65536, depth: 64, ..Options::default() }
}

fn copy(source: &mut Memory, sink: &mut Memory) -> Result<()> {
    run(&mut Transfer::new(&options())?, source, sink, &mut Watcher::default())
}

fn asked(sink: &Memory, ask: Ask) -> usize {
    sink.seen.lock().unwrap().asked.iter().filter(|asked| **asked == ask).count()
}

#[test]
fn short_holes_are_zeroed_together_where_the_sink_does_that_quickly() {
    let (mut source, mut sink, bytes) = comb(false, 1);
    copy(&mut source, &mut sink).unwrap();
    assert!(*sink.content.lock().unwrap() == bytes);
    assert_eq!((asked(&sink, Ask::FastZero), asked(&sink, Ask::Zero)), (4, 0));
    let (mut source, mut sink, bytes) = comb(false, 1);
    sink.habits.fast_zero = false;
    copy(&mut source, &mut sink).unwrap();
    assert!(*sink.content.lock().unwrap() == bytes);
    assert_eq!((asked(&sink, Ask::FastZero), asked(&sink, Ask::Zero)), (0, TEETH as usize));
}

#[test]
fn long_data_is_not_zeroed_before_it_is_written() {
    // A little longer than the hole before it, and longer than any piece that is swept.
    for (hole, data) in [(TOOTH, TOOTH + 512), (200_000, 70_000)] {
        let (mut source, mut sink, _) = comb(false, 1);
        let total = 3 * (hole + data);
        let mut bytes = vec![0; total as usize];
        source.sections.clear();
        for nth in 0..3 {
            let at = nth * (hole + data);
            source.sections.push(Section::new(Kind::Hole, at, hole));
            source.sections.push(Section::new(Kind::Data, at + hole, data));
            bytes[(at + hole) as usize..(at + hole + data) as usize].fill(1);
        }
        *source.content.lock().unwrap() = bytes.clone();
        let room = total.next_multiple_of(512);
        *sink.content.lock().unwrap() = vec![0xdd; room as usize];
        (source.size, sink.size) = (total, room);
        source.habits.request = 1 << 20;
        sink.habits.request = 1 << 20;
        copy(&mut source, &mut sink).unwrap();
        assert!(sink.content.lock().unwrap()[..total as usize] == bytes);
        assert_eq!((asked(&sink, Ask::FastZero), asked(&sink, Ask::Zero)), (0, 3));
    }
}

#[test]
fn a_disk_that_is_copied_onto_itself_keeps_its_data() {
    let mut swept = 0;
    for seed in 0..300 {
        let (mut source, mut sink, bytes) = comb(true, seed);
        let mut random = Random::new(seed);
        source.habits.unruly = true;
        sink.habits.unruly = true;
        source.habits.depth = random.below(40) as usize + 1;
        sink.habits.depth = random.below(40) as usize + 1;
        copy(&mut source, &mut sink).unwrap();
        assert!(*sink.content.lock().unwrap() == bytes, "seed {seed}");
        swept += asked(&sink, Ask::FastZero);
    }
    assert!(swept > 1000, "{swept}");
}

#[test]
fn a_sink_that_refuses_gets_each_hole_from_then_on() {
    for seed in 0..100 {
        let (mut source, mut sink, bytes) = comb(false, seed);
        sink.habits.refuses = true;
        sink.habits.late = true;
        sink.habits.unruly = seed % 2 == 1;
        copy(&mut source, &mut sink).unwrap();
        assert!(*sink.content.lock().unwrap() == bytes, "seed {seed}");
        let refused = asked(&sink, Ask::FastZero);
        assert!((1..=4).contains(&refused), "{refused}");
        // One may come in parts.
        assert!(asked(&sink, Ask::Zero) >= TEETH as usize);
    }
}

#[test]
fn a_failure_is_that_of_the_range() {
    let (mut source, mut sink, _) = comb(false, 1);
    sink.habits.fails = Some((0, libc::ENOSPC));
    let error = copy(&mut source, &mut sink).unwrap_err();
    let place = (error.errno(), error.operation(), error.offset());
    assert_eq!(place, (libc::ENOSPC, Operation::Hole, Some(0)));
    assert!(asked(&sink, Ask::FastZero) > 0 && asked(&sink, Ask::Zero) == 0);
}

#[test]
fn one_slow_read_does_not_hold_up_the_others() {
    let (mut source, mut sink, bytes) = comb(false, 1);
    source.habits.depth = 8;
    source.habits.first_is_slow = true;
    // A sweep has at most half of the memory.
    let options = Options { depth: 8, ..options() };
    let mut transfer = Transfer::new(&options).unwrap();
    run(&mut transfer, &mut source, &mut sink, &mut Watcher::default()).unwrap();
    assert!(*sink.content.lock().unwrap() == bytes);
    // The first sweep is dissolved, and the others are not.
    assert!(source.seen.lock().unwrap().before_first >= TEETH / 2);
    let (alone, swept) = (asked(&sink, Ask::Zero), asked(&sink, Ask::FastZero));
    assert!((1..=8).contains(&alone) && swept >= 10, "{alone} {swept}");
}

#[test]
fn a_source_that_ends_within_a_sweep_is_reported() {
    let (mut source, mut sink, _) = comb(false, 1);
    let end = 41 * TOOTH + 512;
    source.content.lock().unwrap().truncate(end as usize);
    let error = copy(&mut source, &mut sink).unwrap_err();
    assert!(matches!(error, Error::EndedEarly { offset, .. } if offset == end), "{error}");
    assert!(asked(&sink, Ask::FastZero) > 0);
}

#[test]
fn a_sweep_is_not_longer_than_the_sink_allows() {
    let (mut source, mut sink, bytes) = comb(false, 1);
    sink.habits.zero = 7 * TOOTH;
    copy(&mut source, &mut sink).unwrap();
    assert!(*sink.content.lock().unwrap() == bytes);
    // Four holes each, and the data between them.
    assert_eq!((asked(&sink, Ask::FastZero), asked(&sink, Ask::Zero)), (TEETH as usize / 4, 0));
}
