// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Rust program with the C library: copies a file with a hole, and prints the library's version.

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::ptr::{null, null_mut};

#[link(name = "sparsestream")]
unsafe extern "C" {
    fn sparsestream_version() -> *const c_char;
    fn sparsestream_source_from_fd(
        fd: c_int,
        options: *const c_void,
        source: *mut *mut c_void,
    ) -> c_int;
    fn sparsestream_source_free(source: *mut c_void);
    fn sparsestream_sink_to_fd(fd: c_int, options: *const c_void, sink: *mut *mut c_void) -> c_int;
    fn sparsestream_sink_free(sink: *mut c_void);
    fn sparsestream_transfer_new(
        source: *mut c_void,
        sink: *mut c_void,
        options: *const c_void,
        transfer: *mut *mut c_void,
    ) -> c_int;
    fn sparsestream_transfer_run(transfer: *mut c_void, budget: i64) -> c_int;
    fn sparsestream_transfer_free(transfer: *mut c_void);
}

fn check(code: c_int) -> io::Result<()> {
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
}

fn unnamed(name: &str) -> io::Result<File> {
    let path =
        std::env::temp_dir().join(format!("sparsestream-consumer-{name}-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

fn main() -> Result<(), Box<dyn Error>> {
    const SIZE: u64 = 1 << 20;
    let (from, to) = (unnamed("from")?, unnamed("to")?);
    from.write_all_at(b"data", 0)?;
    from.set_len(SIZE)?;
    let (mut source, mut sink, mut transfer) = (null_mut(), null_mut(), null_mut());
    // SAFETY: each handle is made before it is used, and freed once; the files outlive them.
    unsafe {
        check(sparsestream_source_from_fd(from.as_raw_fd(), null(), &mut source))?;
        check(sparsestream_sink_to_fd(to.as_raw_fd(), null(), &mut sink))?;
        check(sparsestream_transfer_new(source, sink, null(), &mut transfer))?;
        let result = check(sparsestream_transfer_run(transfer, 0));
        sparsestream_transfer_free(transfer);
        sparsestream_sink_free(sink);
        sparsestream_source_free(source);
        result?;
    }
    let mut copied = [0; 8];
    to.read_exact_at(&mut copied, 0)?;
    if &copied != b"data\0\0\0\0" || to.metadata()?.size() != SIZE {
        return Err("the copy is not the source".into());
    }
    // SAFETY: a constant string.
    println!("{}", unsafe { CStr::from_ptr(sparsestream_version()) }.to_str()?);
    Ok(())
}
