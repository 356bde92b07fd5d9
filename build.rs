//! Compiles the one C source of the library: the thread's error message.

fn main() {
    // Debug information names the directory that it was compiled in; what is built is to be the same anywhere.
    let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo::rerun-if-changed=src/error_message.c");
    cc::Build::new()
        .file("src/error_message.c")
        .std("c11")
        .warnings(true)
        .extra_warnings(true)
        .flag_if_supported("-fvisibility=hidden")
        .flag_if_supported("-fstack-protector-strong")
        .flag_if_supported(format!("-ffile-prefix-map={directory}=."))
        .compile("sparsestream_error_message");
}
