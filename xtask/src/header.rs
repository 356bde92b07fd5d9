//! The public header, generated from the exports by cbindgen.

use crate::{Outcome, layout, source};
use similar::TextDiff;
use std::fs;
use std::path::Path;

/// The committed header, below the project's directory.
const HEADER: &str = "include/sparsestream.h";

/// Writes the header.
pub fn write(root: &Path) -> Outcome {
    let path = root.join(HEADER);
    let generated = generate(root)?;
    if fs::read_to_string(&path).is_ok_and(|committed| committed == generated) {
        return Ok(format!("{HEADER} is up to date"));
    }
    fs::write(&path, generated).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(format!("{HEADER} written"))
}

/// Fails if the committed header is not what would be written.
pub fn check(root: &Path) -> Outcome {
    let generated = generate(root)?;
    let committed = source::read(&root.join(HEADER))?;
    if committed == generated {
        return Ok(format!("{HEADER} is what src/ffi says"));
    }
    let diff = TextDiff::from_lines(&committed, &generated);
    let diff = diff.unified_diff().header(HEADER, "src/ffi").to_string();
    Err(format!("{diff}{HEADER} is not what src/ffi says: run `make header`"))
}

fn generate(root: &Path) -> Result<String, String> {
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
    let version = version(&source::read(&root.join("Cargo.toml"))?)?;
    config.after_includes = config.after_includes.map(|text| with_version(&text, &version));

    // Only what the C ABI is made of: of the core, cbindgen would take constants for public ones.
    let sources = source::below(root, "src/ffi")?;
    config.export.exclude.extend(private_names(&sources));
    let bindings = cbindgen::Builder::new()
        .with_src(root.join("src/ffi/mod.rs"))
        .with_config(config)
        .generate()
        .map_err(|error| format!("cbindgen: {error}"))?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).map_err(|error| format!("cbindgen: {error}"))?;
    let text = layout::arrange(&tidy(&text))?;
    prefixed(&text)?;
    Ok(text)
}

/// Names that cbindgen would take for a part of the interface: functions that the library calls, and
/// associated constants.
fn private_names(sources: &[source::Source]) -> Vec<String> {
    let mut names = Vec::new();
    for source in sources {
        source::for_each_item(&source.file.items, &mut |item| match item {
            syn::Item::ForeignMod(block) => {
                names.extend(block.items.iter().filter_map(|item| match item {
                    syn::ForeignItem::Fn(function) => Some(function.sig.ident.to_string()),
                    _ => None,
                }));
            }
            syn::Item::Impl(block) => {
                let syn::Type::Path(path) = &*block.self_ty else { return };
                let Some(owner) = path.path.segments.last() else { return };
                names.extend(block.items.iter().filter_map(|item| match item {
                    syn::ImplItem::Const(constant) => {
                        Some(format!("{}_{}", owner.ident, constant.ident))
                    }
                    _ => None,
                }));
            }
            _ => {}
        });
    }
    names
}

/// Fails if the header defines a name that is not the library's own.
fn prefixed(header: &str) -> Result<(), String> {
    let stranger = header.lines().find(|line| {
        let macro_name =
            line.strip_prefix("#define ").map(|rest| rest.starts_with("SPARSESTREAM_"));
        // A declaration at the margin ends in its name, or has it before its parameters.
        let declared = line.starts_with(|first: char| first.is_ascii_alphabetic())
            && line.ends_with([';', ',', '{'])
            && *line != "extern \"C\" {";
        let name = line.split('(').next().unwrap_or_default();
        macro_name == Some(false) || (declared && !name.contains("sparsestream_"))
    });
    match stranger {
        None => Ok(()),
        Some(line) => Err(format!("not a name of the library, keep it out of the header: {line}")),
    }
}

/// The version in a manifest: three numbers.
pub fn version(manifest: &str) -> Result<String, String> {
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = \""));
    let version = line.and_then(|rest| rest.split_once('"')).map_or("", |(version, _)| version);
    let numbers: Vec<&str> = version.split('.').collect();
    if numbers.len() == 3
        && numbers.iter().all(|number| number.parse::<u16>().is_ok_and(|n| n < 1000))
    {
        Ok(version.to_owned())
    } else {
        Err(format!("Cargo.toml has no version of three numbers below 1000: {version:?}"))
    }
}

/// Text in which the version stands for `@VERSION@`, and its parts for `@MAJOR@`, `@MINOR@` and `@PATCH@`.
fn with_version(text: &str, version: &str) -> String {
    let mut text = text.replace("@VERSION@", version);
    for (mark, number) in ["@MAJOR@", "@MINOR@", "@PATCH@"].iter().zip(version.split('.')) {
        text = text.replace(mark, number);
    }
    text
}

/// Adapts cbindgen's output to a reader of C, in ways that cbindgen itself cannot.
fn tidy(header: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut in_safety = false;
    for line in header.lines() {
        let line = line.trim_end();
        match line.trim_start() {
            // The Safety section is for Rust callers; for C callers it goes without saying.
            "* # Safety" => {
                in_safety = true;
                while lines.last().is_some_and(|last| last.trim() == "*") {
                    lines.pop();
                }
            }
            "*/" => {
                in_safety = false;
                lines.push(line.to_owned());
            }
            _ if in_safety => {}
            // cbindgen leaves a gap where it leaves something out.
            "" if lines.last().is_some_and(String::is_empty) => {}
            _ => lines.push(parenthesized(line)),
        }
    }
    lines.join("\n").trim_end().to_owned() + "\n"
}

/// `#define NAME -1` as `#define NAME (-1)`, so that it can stand in an expression.
fn parenthesized(line: &str) -> String {
    let definition = line.strip_prefix("#define ").and_then(|rest| rest.split_once(' '));
    match definition {
        Some((name, value)) if value.starts_with('-') => format!("#define {name} ({value})"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_safety_section_is_dropped_to_the_end_of_its_comment() {
        let header = "/**\n * Does it.\n *\n * # Safety\n * `p` is\n *\n * writable.\n */\nint f(void);\n\
                      /**\n * Another.\n */\nint g(void);\n";
        let wanted = "/**\n * Does it.\n */\nint f(void);\n/**\n * Another.\n */\nint g(void);\n";
        assert_eq!(tidy(header), wanted);
    }

    #[test]
    fn a_negative_number_is_put_in_parentheses() {
        assert_eq!(tidy("#define A -4096\n#define B 1\n"), "#define A (-4096)\n#define B 1\n");
    }

    #[test]
    fn no_line_ends_in_blanks_and_the_last_one_ends() {
        assert_eq!(tidy("int f(void);  \n\t\n\n"), "int f(void);\n");
    }

    #[test]
    fn a_version_is_three_numbers() {
        let manifest = "[package]\nname = \"x\"\nversion = \"1.2.3\"\nrust-version = \"1.85\"\n";
        assert_eq!(version(manifest), Ok("1.2.3".to_owned()));
        for bad in
            ["", "version = \"1.2\"\n", "version = \"1.2.3-rc1\"\n", "version = \"1.2.1000\"\n"]
        {
            assert!(version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_version_and_its_numbers_are_filled_in() {
        let text = "A \"@VERSION@\" B @MAJOR@ @MINOR@ @PATCH@";
        assert_eq!(with_version(text, "1.20.3"), "A \"1.20.3\" B 1 20 3");
    }

    #[test]
    fn private_names_are_found() {
        let text = "pub const SPARSESTREAM_A: u64 = 1; fn three() {}
                    unsafe extern \"C\" { fn one(); static S: u8; }
                    mod m { unsafe extern \"C\" { fn two(); } }
                    impl sparsestream_a { const SIZE: u64 = 1; }";
        let parsed = source::Source::parse(Path::new("src/ffi/a.rs"), text).unwrap();
        assert_eq!(private_names(&[parsed]), ["one", "two", "sparsestream_a_SIZE"]);
    }

    #[test]
    fn names_of_others_are_refused() {
        let good = "#define SPARSESTREAM_A 1\ntypedef struct sparsestream_a {\n    int64_t length;\n} sparsestream_a;\n\
                    extern \"C\" {\nint sparsestream_f(int fd,\n                   int64_t length);\n";
        assert_eq!(prefixed(good), Ok(()));
        for bad in [
            "#define A 1",
            "int f(void);",
            "int f(int sparsestream_a);",
            "typedef struct a {",
            "extern int f(int,",
        ] {
            assert!(prefixed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn blank_lines_come_alone() {
        assert_eq!(tidy("#define A 1\n\n\n\nint f(void);\n"), "#define A 1\n\nint f(void);\n");
    }
}
