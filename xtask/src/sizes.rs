//! The bounds on the size of the library's files, functions and structs.

use crate::Outcome;
use crate::source::{self, Source};
use std::path::Path;
use syn::spanned::Spanned;
use syn::{Attribute, Block, Fields, ImplItem, Item, ItemStruct, TraitItem};

/// Lines of a file, without the tests in it.
const FILE: usize = 520;
/// Lines of a function, without the comment before it.
const FUNCTION: usize = 60;
/// Fields of a struct. The structs of the C interface are not counted: a caller sees them as one table of options.
const FIELDS: usize = 14;

/// Fails if a file, a function or a struct of `src` is too large to be read at one go.
pub fn check(root: &Path) -> Outcome {
    let mut problems = Vec::new();
    let mut count = 0;
    for source in source::below(root, "src")?.iter().filter(|source| !is_test(&source.path)) {
        count += 1;
        let text = source::read(&root.join(&source.path))?;
        problems.extend(check_source(source, text.lines().count()));
    }
    if problems.is_empty() {
        Ok(format!("{count} files are within {FILE} lines, their functions within {FUNCTION}"))
    } else {
        Err(problems.join("\n"))
    }
}

/// Whether a whole file is a test.
fn is_test(path: &Path) -> bool {
    let names = path.with_extension("");
    names.iter().any(|name| name == "tests" || name == "testing")
}

/// The problems of a file that has this many lines.
fn check_source(source: &Source, lines: usize) -> Vec<String> {
    let mut problems = Vec::new();
    let path = source.path.display();
    let tests = source.file.items.iter().filter(|item| is_test_only(attributes(item)));
    let lines = lines - tests.map(length).sum::<usize>();
    if lines > FILE {
        problems.push(format!(
            "{path}: {lines} lines without its tests, and at most {FILE} are allowed"
        ));
    }
    for item in source.file.items.iter().filter(|item| !is_test_only(attributes(item))) {
        check_item(item, &mut |line, problem| problems.push(format!("{path}:{line}: {problem}")));
    }
    problems
}

fn check_item(item: &Item, report: &mut impl FnMut(usize, String)) {
    match item {
        Item::Fn(function) => check_function(&function.sig, &function.block, report),
        Item::Impl(block) => {
            for item in &block.items {
                if let ImplItem::Fn(function) = item {
                    check_function(&function.sig, &function.block, report);
                }
            }
        }
        Item::Trait(block) => {
            for item in &block.items {
                if let TraitItem::Fn(syn::TraitItemFn { sig, default: Some(body), .. }) = item {
                    check_function(sig, body, report);
                }
            }
        }
        Item::Mod(module) => {
            let items = module.content.iter().flat_map(|(_, items)| items);
            for item in items.filter(|item| !is_test_only(attributes(item))) {
                check_item(item, report);
            }
        }
        Item::Struct(found) => check_struct(found, report),
        _ => {}
    }
}

fn check_function(
    signature: &syn::Signature,
    body: &Block,
    report: &mut impl FnMut(usize, String),
) {
    let first = signature.span().start().line;
    let lines = body.span().end().line - first + 1;
    if lines > FUNCTION {
        let name = &signature.ident;
        report(first, format!("{name} has {lines} lines, and at most {FUNCTION} are allowed"));
    }
}

fn check_struct(found: &ItemStruct, report: &mut impl FnMut(usize, String)) {
    let is_of_c = found.attrs.iter().any(|attribute| attribute.path().is_ident("repr"));
    let Fields::Named(fields) = &found.fields else { return };
    let (count, name) = (fields.named.len(), &found.ident);
    if count > FIELDS && !is_of_c {
        let line = found.ident.span().start().line;
        report(line, format!("{name} has {count} fields, and at most {FIELDS} are allowed"));
    }
}

/// Lines of an item, with its attributes.
fn length(item: &Item) -> usize {
    let span = item.span();
    span.end().line - span.start().line + 1
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether an item is there in a test build only.
fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        attribute.path().is_ident("cfg") && list.tokens.to_string() == "test"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let source = Source::parse(Path::new("src/a.rs"), text).unwrap();
        check_source(&source, text.lines().count())
    }

    fn function(lines: usize) -> String {
        format!("/// Words.\nfn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_may_have_as_many_lines_as_a_screen() {
        assert_eq!(problems(&function(FUNCTION)), [""; 0]);
        let too_long = "long has 61 lines, and at most 60 are allowed";
        assert_eq!(problems(&function(FUNCTION + 1)), [format!("src/a.rs:2: {too_long}")]);
        let method = format!("impl A {{\n{}}}\n", function(FUNCTION + 1));
        assert_eq!(problems(&method), [format!("src/a.rs:3: {too_long}")]);
        let inner = format!("mod a {{\n{}}}\n", function(FUNCTION + 1));
        assert_eq!(problems(&inner), [format!("src/a.rs:3: {too_long}")]);
        let provided = format!("trait A {{\n{}}}\n", function(FUNCTION + 1));
        assert_eq!(problems(&provided), [format!("src/a.rs:3: {too_long}")]);
    }

    #[test]
    fn a_file_is_counted_without_its_tests() {
        let library = "const A: u8 = 0;\n".repeat(FILE);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(FUNCTION + 1).repeat(9));
        assert_eq!(problems(&format!("{library}{tests}")), [""; 0]);
        let one_more = format!("{library}const B: u8 = 0;\n{tests}");
        assert_eq!(
            problems(&one_more),
            ["src/a.rs: 521 lines without its tests, and at most 520 are allowed"]
        );
    }

    #[test]
    fn a_struct_has_few_fields_unless_it_is_of_c() {
        let fields = |count| (0..count).map(|nth| format!("    f{nth}: u8,\n")).collect::<String>();
        assert_eq!(problems(&format!("struct A {{\n{}}}\n", fields(FIELDS))), [""; 0]);
        let many = format!("struct A {{\n{}}}\n", fields(FIELDS + 1));
        assert_eq!(problems(&many), ["src/a.rs:1: A has 15 fields, and at most 14 are allowed"]);
        assert_eq!(problems(&format!("#[repr(C)]\n{many}")), [""; 0]);
    }

    #[test]
    fn files_of_tests_are_left_out() {
        for path in
            ["src/tests.rs", "src/wire/tests/mod.rs", "src/wire/tests/ends.rs", "src/testing.rs"]
        {
            assert!(is_test(Path::new(path)), "{path}");
        }
        assert!(!is_test(Path::new("src/wire/contests.rs")));
    }
}
