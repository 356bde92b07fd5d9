//! Any bytes as frames: what is decoded is encoded to the same, and nothing is believed that the
//! format forbids.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sparsestream::wire::proto::body::{Accept, End, Hello, Reason};
use sparsestream::wire::proto::codec::{MAX_OFFSET, MAX_PAYLOAD, UNKNOWN};
use sparsestream::wire::proto::failure::Failure;
use sparsestream::wire::proto::frame::{self, Frame, HEADER, Header, Kind, MAX_BODY};

fn header(bytes: &[u8]) {
    let Some(head) = bytes.first_chunk::<HEADER>() else { return };
    let body = &bytes[HEADER..];
    // A random checksum is never right: what is behind it is looked at with one that is, and that with
    // the length and the checksum of the body that is there.
    let seal = |mut head: [u8; HEADER]| {
        let magic = Header::new(Kind::End, 0, 0).encode();
        head[..3].copy_from_slice(&magic[..3]);
        let checksum = crc32c(&head[..HEADER - 4]);
        head[HEADER - 4..].copy_from_slice(&checksum.to_le_bytes());
        head
    };
    let mut fitting = *head;
    fitting[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
    let checksum = if body.is_empty() { 0 } else { crc32c(body) };
    fitting[24..28].copy_from_slice(&checksum.to_le_bytes());
    for head in [*head, seal(*head), seal(fitting)] {
        let Ok(header) = Header::decode(&head) else { continue };
        if header.kind == Kind::Ignored {
            assert!(head[3] >= 0x80 && header.length as usize <= MAX_BODY);
        } else {
            assert_eq!(header.encode(), head);
            let extent = match header.kind {
                Kind::Data => u64::from(header.length),
                Kind::Hole | Kind::Keep => header.value,
                _ => 1,
            };
            assert!(extent > 0 && header.offset <= MAX_OFFSET);
            assert!(header.offset.checked_add(extent).is_some_and(|end| end <= MAX_OFFSET + 1));
            assert!(header.length <= MAX_PAYLOAD);
        }
        let _ = header.check(body);
        if let Ok(error) = Failure::decode((header.offset, header.value), body) {
            assert!(error.errno() > 0 && !error.would_block() && !error.interrupted());
            let text = error.to_string();
            assert!(text.len() < 400 && !text.chars().any(char::is_control), "{text:?}");
            // An error that is passed on can be decoded again.
            let again = Failure::encode(&error);
            let header = Header::decode(&Header::of_failure(&again).encode()).expect("our own");
            let place = (header.offset, header.value);
            let again = Failure::decode(place, again.body()).expect("our own");
            assert_eq!((error.errno(), error.operation()), (again.errno(), again.operation()));
        }
    }
}

/// The checksum, as any header has it: that of a header is over its first 28 bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    Header::with_body(Kind::Error, 0, 0, bytes).checksum
}

fuzz_target!(|bytes: &[u8]| {
    header(bytes);
    match frame::first(bytes) {
        Ok(Frame::Incomplete(need)) => assert!(need > bytes.len()),
        Ok(Frame::Whole(header, body)) => {
            assert!(header.whole() <= bytes.len() && header.whole() == HEADER + body.len());
        }
        Err(_) => {}
    }
    if let Some(hello) = Hello::parse(bytes).ok().filter(|hello| hello.check().is_ok()) {
        let again = Hello::parse(&hello.encode()).expect("our own");
        assert_eq!(hello, again);
        let length = if hello.length == UNKNOWN { 0 } else { hello.length };
        assert!(hello.source_offset + length <= MAX_OFFSET);
        if let Some(rest) = bytes.get(Hello::SIZE..) {
            if let Ok(accept) = Accept::decode(rest, &hello) {
                assert_eq!(Accept::decode(&accept.encode(), &hello), Ok(accept));
                assert_eq!(accept.features & hello.required, hello.required);
            }
        }
    }
    if let Ok(end) = End::decode(bytes) {
        assert_eq!(end.encode(), bytes[..End::SIZE]);
    }
    if let Some(value) = bytes.first_chunk::<8>() {
        let value = u64::from_le_bytes(*value);
        if let Ok(reason) = Reason::of_begin(value) {
            assert_eq!(u64::from(reason.code()), value);
        }
    }
});
