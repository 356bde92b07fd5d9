//! Options structs and callback tables of any bytes and any size: nothing outside of them is read
//! (the address sanitizer sees it), and the answer is a handle or an errno, never both.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sparsestream::ffi::async_ops::*;
use sparsestream::ffi::channel::*;
use sparsestream::ffi::errors::*;
use sparsestream::ffi::handles::*;
use sparsestream::ffi::options::*;
use sparsestream::ffi::sinks::*;
use sparsestream::ffi::sources::*;
use sparsestream::ffi::transfers::*;
use sparsestream::ffi::transport::*;
use sparsestream::ffi::wire::*;
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    which: Which,
    /// The size that the struct claims; None: its true size.
    size: Option<u64>,
    /// Which of its functions are there.
    functions: u16,
    bytes: &'a [u8],
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Which {
    Source,
    Sink,
    Transfer,
    Stats,
    SourceOps,
    SinkOps,
    StreamOps,
    WireSink,
    WireSource,
    TransportOps,
    AsyncOps,
    AsyncOptions,
    Channel,
    Arguments,
}

fn file() -> c_int {
    static FILE: OnceLock<File> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("sparsestream-fuzz-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(1 << 20).unwrap();
        file
    })
    .as_raw_fd()
}

unsafe extern "C" fn count_free(opaque: *mut c_void) {
    unsafe { *opaque.cast::<u32>() += 1 };
}

/// The goodbye of a transport, which one that was not used says too.
unsafe extern "C" fn goodbye(_opaque: *mut c_void) -> c_int {
    0
}

unsafe extern "C" fn never() {
    panic!("it is not called before a transfer runs");
}

/// A table with the two functions that it must have.
fn async_ops() -> sparsestream_async_ops {
    let size = size_of::<sparsestream_async_ops>() as u64;
    // SAFETY: neither is called: the end is freed unused.
    unsafe {
        sparsestream_async_ops {
            size,
            describe: Some(std::mem::transmute(never as *const ())),
            submit: Some(std::mem::transmute(never as *const ())),
            ..Default::default()
        }
    }
}

/// The struct's bytes in memory of exactly its size, 8-aligned, its functions replaced.
struct Struct {
    words: Vec<u64>,
    honest: bool,
}

impl Struct {
    fn new(input: &Input, functions: &[usize]) -> Option<Self> {
        let mut words = vec![0u64; input.bytes.len() / 8 + 1];
        for (word, bytes) in words[1..].iter_mut().zip(input.bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().ok()?);
        }
        let size = words.len() as u64 * 8;
        // A size beyond the memory would be the caller's lie: nothing can be promised for it,
        // unless it is one that no struct can have.
        let claimed = input.size.unwrap_or(size);
        if claimed > size && claimed <= 4096 {
            return None;
        }
        words[0] = claimed;
        for (bit, at) in functions.iter().enumerate() {
            if let Some(word) = words.get_mut(*at) {
                let there = input.functions & 1 << bit != 0;
                *word = if there { never as *const () as usize as u64 } else { 0 };
            }
        }
        Some(Struct { words, honest: (16..=4096).contains(&claimed) })
    }

    fn at<T>(&mut self) -> *mut T {
        self.words.as_mut_ptr().cast()
    }
}

fn check(answer: c_int, is_null: bool) {
    assert_eq!(answer == 0, !is_null, "a handle or an errno");
    let known =
        [libc::EINVAL, libc::E2BIG, libc::ENODATA, libc::EFBIG, libc::EBADF, libc::EOPNOTSUPP];
    assert!(answer == 0 || known.contains(&-answer), "{answer}");
}

fuzz_target!(|input: Input| {
    let functions: &[usize] = match input.which {
        Which::Source | Which::Stats | Which::Channel | Which::Arguments => &[],
        Which::WireSink | Which::WireSource | Which::AsyncOptions => &[],
        Which::TransportOps => &[2, 3, 5, 6, 7],
        Which::AsyncOps => &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
        Which::Sink => &[5],
        Which::Transfer => &[6, 7, 12],
        Which::SourceOps => &[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
        Which::SinkOps => &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
        Which::StreamOps => &[4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    };
    let Some(mut given) = Struct::new(&input, functions) else { return };
    let mut freed = 0u32;
    let opaque = (&raw mut freed).cast::<c_void>();
    // Where `free` is, and the opaque that it gets, if that is in the struct.
    let (free, own) = match input.which {
        Which::Source => (Some(5), Some(4)),
        Which::Sink => (Some(7), Some(6)),
        Which::SourceOps | Which::SinkOps | Which::StreamOps => (Some(1), None),
        Which::TransportOps | Which::AsyncOps => (Some(1), None),
        Which::Transfer | Which::Stats | Which::Channel | Which::Arguments => (None, None),
        Which::WireSink | Which::WireSource | Which::AsyncOptions => (None, None),
    };
    for (at, value) in
        [(free, count_free as *const () as usize as u64), (own, opaque as usize as u64)]
    {
        if let Some(word) = at.and_then(|at| given.words.get_mut(at)) {
            *word = value;
        }
    }
    if let (Which::TransportOps, Some(word)) = (input.which, given.words.get_mut(4)) {
        *word = goodbye as *const () as usize as u64;
    }
    let (mut source, mut sink, mut transfer) = (null_mut(), null_mut(), null_mut());
    // SAFETY: each struct has the size that its `size` has, or `size` is invalid.
    unsafe {
        match input.which {
            Which::Source => {
                check(
                    sparsestream_source_from_fd(file(), given.at(), &raw mut source),
                    source.is_null(),
                );
            }
            Which::Sink => {
                check(sparsestream_sink_to_fd(file(), given.at(), &raw mut sink), sink.is_null());
            }
            Which::Transfer | Which::Stats => {
                sparsestream_source_from_fd(file(), std::ptr::null(), &raw mut source);
                sparsestream_sink_to_fd(file(), std::ptr::null(), &raw mut sink);
                let options = match input.which {
                    Which::Transfer => given.at(),
                    _ => null_mut::<sparsestream_transfer_options>(),
                };
                let answer = sparsestream_transfer_new(source, sink, options, &raw mut transfer);
                check(answer, transfer.is_null());
                if matches!(input.which, Which::Stats) {
                    let claimed = given.words[0];
                    let stats = given.at::<sparsestream_stats>();
                    let answer = sparsestream_transfer_stats(transfer, stats);
                    assert!(answer == 0 || answer == -libc::EINVAL);
                    assert_eq!(given.words[0], claimed, "the size stays the caller's");
                    sparsestream_transfer_wait(transfer, given.at());
                    sparsestream_transfer_error(transfer, given.at());
                }
            }
            Which::SourceOps => {
                let answer =
                    sparsestream_source_from_callbacks(given.at(), opaque, &raw mut source);
                check(answer, source.is_null());
            }
            Which::SinkOps => {
                check(
                    sparsestream_sink_to_callbacks(given.at(), opaque, &raw mut sink),
                    sink.is_null(),
                );
            }
            Which::StreamOps => {
                check(
                    sparsestream_sink_to_stream(given.at(), opaque, &raw mut sink),
                    sink.is_null(),
                );
            }
            Which::WireSink => {
                let answer = sparsestream_sink_to_wire(file(), -1, given.at(), &raw mut sink);
                check(answer, sink.is_null());
            }
            Which::WireSource => {
                let answer = sparsestream_source_from_wire(file(), -1, given.at(), &raw mut source);
                check(answer, source.is_null());
            }
            Which::TransportOps => {
                let ops = given.at();
                let answer = sparsestream_sink_to_transport(ops, opaque, null(), &raw mut sink);
                check(answer, sink.is_null());
            }
            Which::AsyncOps => {
                let ops = given.at();
                let answer = sparsestream_source_from_async(ops, opaque, null(), &raw mut source);
                check(answer, source.is_null());
            }
            Which::AsyncOptions => {
                let ops = async_ops();
                let answer =
                    sparsestream_sink_to_async(&raw const ops, opaque, given.at(), &raw mut sink);
                check(answer, sink.is_null());
            }
            Which::Channel => {
                let answer = sparsestream_channel(given.at(), &raw mut sink, &raw mut source);
                check(answer, sink.is_null());
                assert_eq!(sink.is_null(), source.is_null(), "both ends or none");
            }
            Which::Arguments => {
                sparsestream_source_from_fd(file(), null(), &raw mut source);
                sparsestream_sink_to_fd(file(), null(), &raw mut sink);
                sparsestream_transfer_new(source, sink, null(), &raw mut transfer);
                arguments(&input, transfer, source, sink);
            }
        }
        free_all(transfer, source, sink);
    }
    let reaches = |at: usize| given.words[0] >= (at as u64 + 1) * 8;
    let calls = free.is_some_and(|at| given.honest && reaches(at));
    assert_eq!(freed, u32::from(calls), "free exactly once");
});

/// Numbers, buffers and strings of any value: what is wrong is refused, and of a string no more is read than it has.
unsafe fn arguments(
    input: &Input,
    transfer: *mut sparsestream_transfer,
    source: *mut sparsestream_source,
    sink: *mut sparsestream_sink,
) {
    let mut bytes = input.bytes.to_vec();
    let length = bytes.len();
    let error = input.size.unwrap_or_default() as c_int;
    let right = (1..4096).contains(&error);
    let refused = -i64::from(libc::EINVAL);
    // SAFETY: live handles; buffers of their lengths, or lengths that no buffer has; a string that ends.
    unsafe {
        if input.functions & 1 != 0 {
            assert_eq!(sparsestream_source_read(source, null_mut(), length + 1), refused);
            assert_eq!(sparsestream_sink_write(sink, null(), length + 1), refused);
            let none = bytes.as_mut_ptr().cast();
            assert_eq!(sparsestream_source_read(source, none, usize::MAX - length), refused);
        }
        if input.functions & 2 != 0 {
            let got = sparsestream_source_read(source, bytes.as_mut_ptr().cast(), length);
            let at_hole = got == i64::from(SPARSESTREAM_AT_HOLE);
            assert!(at_hole || (0..=length as i64).contains(&got), "{got}");
            let put = sparsestream_sink_write(sink, bytes.as_ptr().cast(), length);
            assert!((0..=length as i64).contains(&put), "{put}");
        }
        bytes.push(0);
        let text = if input.functions & 4 != 0 { null() } else { bytes.as_ptr().cast() };
        let answer = match input.functions & 0x18 {
            0 => sparsestream_transfer_fail(transfer, error, text),
            8 => sparsestream_sink_abort(sink, error),
            _ => sparsestream_source_abort(source, error),
        };
        assert_eq!(answer == 0, right, "{error}: {answer}");
        let last = std::ffi::CStr::from_ptr(sparsestream_last_error());
        assert!(right || !last.is_empty());
    }
}

unsafe fn free_all(
    transfer: *mut sparsestream_transfer,
    source: *mut sparsestream_source,
    sink: *mut sparsestream_sink,
) {
    // SAFETY: live handles or null, each freed once.
    unsafe {
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
    }
}
