//! Compiles the one C source of the library: the thread's error message.

fn main() {
    println!("cargo::rerun-if-changed=src/error_message.c");
    cc::Build::new()
        .file("src/error_message.c")
        .std("c11")
        .warnings(true)
        .extra_warnings(true)
        .flag_if_supported("-fvisibility=hidden")
        .compile("sparsestream_error_message");
}
