//! Chores of libsparsestream that are not part of its build.
//!
//! | command | what it does |
//! |---|---|
//! | `header` | writes `include/sparsestream.h` from `src/ffi/` |
//! | `header --check` | fails, and shows how, if that file is not what would be written |
//! | `exports` | fails if an export is not one call of a guard, or is not in one node of the version map |
//! | `sizes` | fails if a file, a function or a struct of `src/` is too large |

mod exports;
mod header;
mod layout;
mod sizes;
mod source;

use std::path::Path;
use std::process::ExitCode;

/// The message of a chore that succeeds, or the reason why it failed.
type Outcome = Result<String, String>;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the project");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["header"] => header::write(root),
        ["header", "--check"] => header::check(root),
        ["exports"] => exports::check(root),
        ["sizes"] => sizes::check(root),
        _ => {
            eprintln!("usage: xtask header [--check] | exports | sizes");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{}", reason.trim_end());
            ExitCode::FAILURE
        }
    }
}
