//! Silence and checkpoints, by times that are passed in.

use super::receiver::Held;
use super::*;
use std::time::Instant;

const MOST: Duration = Duration::from_millis(100);

#[test]
fn a_sender_is_never_silent_for_longer_than_it_promised() {
    let config = sender::Config { keepalive: MOST, ..sending(hello(ANSWERS, 0)) };
    let mut sender = Sender::new(&config).unwrap();
    assert_eq!(sender.poll_timeout(), None);
    let start = Instant::now();
    sender.greet();
    sender.handle_timeout(start);
    sent(&mut sender);
    answer(&mut sender, &with_body(Kind::Accept, 0, &accept(ANSWERS).encode())).unwrap();
    let (mut now, mut last) = (start, start);
    let mut signs = 0;
    for turn in 0..1000u64 {
        let due = sender.poll_timeout().unwrap();
        assert!(due > now && due <= now + MOST);
        if turn % 7 == 0 {
            // Something else is sent, at any time before.
            now += (due - now) / 3;
            sender.data(b"x").unwrap();
            sent(&mut sender);
            assert!(now - last <= MOST);
            last = now;
        } else {
            now = due;
            sender.handle_timeout(now);
            let bytes = sent(&mut sender);
            if !bytes.is_empty() {
                assert_eq!(kinds(&bytes), [Kind::Keepalive]);
                assert!(now - last <= MOST);
                (signs, last) = (signs + 1, now);
            }
        }
    }
    assert!(signs > 100);
    // Within a frame, and after END, nothing may stand.
    sender.owe(10).unwrap();
    assert_eq!(sender.poll_timeout(), None);
}

#[test]
fn a_receiver_that_reads_back_what_it_holds_is_not_silent() {
    let held = Held { length: 4096, transfer_id: [0; 16], identity: [0; 32] };
    let config = receiver::Config { held: Some(held), ..receiving() };
    let mut receiver = Receiver::new(&config).unwrap();
    let mut now = Instant::now();
    receiver.handle_timeout(now);
    assert_eq!(receiver.poll_timeout(), None);
    give(&mut receiver, &with_body(Kind::Hello, 0, &hello(ANSWERS | DIGEST, RESUME).encode()))
        .unwrap();
    receiver.handle_timeout(now);
    let mut signs = 0;
    for _ in 0..100 {
        now += Duration::from_millis(100);
        receiver.handle_timeout(now);
        let bytes = said(&mut receiver);
        signs += usize::from(kinds(&bytes) == [Kind::Keepalive]);
    }
    // Ten seconds.
    assert!((10..=20).contains(&signs), "{signs}");
    let mut sender = Sender::new(&sending(hello(ANSWERS | DIGEST, RESUME))).unwrap();
    sender.greet();
    answer(&mut sender, &bare(Kind::Keepalive, 0, 0)).unwrap();
    assert_eq!(sender.signs(), 1);
}

#[test]
fn holes_cause_no_flood_of_checkpoints() {
    let mut hello = hello(DIGEST, 0);
    hello.length = UNKNOWN;
    let mut sender = Sender::new(&sending(hello)).unwrap();
    sender.greet();
    let mut now = Instant::now();
    sender.handle_timeout(now);
    let count =
        |bytes: &[u8]| kinds(bytes).iter().filter(|kind| **kind == Kind::Checkpoint).count();
    let mut checkpoints = 0;
    for _ in 0..1000 {
        sender.hole(64 << 20).unwrap();
        checkpoints += count(&sent(&mut sender));
    }
    assert_eq!(checkpoints, 0);
    // After five seconds in which something was sent there is one, and then none until the next move.
    assert_eq!(sender.poll_timeout(), Some(now + Duration::from_secs(5)));
    now += Duration::from_secs(5);
    sender.handle_timeout(now);
    assert_eq!(count(&sent(&mut sender)), 1);
    assert_eq!(sender.poll_timeout(), None);
    now += Duration::from_secs(50);
    sender.handle_timeout(now);
    assert_eq!(count(&sent(&mut sender)), 0);
    // Data counts.
    for _ in 0..65 {
        sender.data(&[7; 1 << 15]).unwrap();
        checkpoints += count(&sent(&mut sender));
    }
    assert_eq!(checkpoints, 0);
    let config = sender::Config { checkpoint_interval: 1 << 16, ..sending(hello) };
    let mut sender = Sender::new(&config).unwrap();
    sender.greet();
    for _ in 0..8 {
        sender.data(&[7; 1 << 15]).unwrap();
        checkpoints += count(&sent(&mut sender));
    }
    assert_eq!(checkpoints, 3);
}
