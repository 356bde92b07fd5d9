//! The rule that every export goes through one wrapper, and the version map.

use crate::Outcome;
use crate::source::{self, Source};
use std::collections::BTreeSet;
use std::path::Path;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, ItemFn, ReturnType, Stmt};

/// The functions of `src/ffi/guard.rs` that an export may be a call of.
const GUARDS: [&str; 5] = ["code", "count", "text", "quiet", "signal_safe"];
/// Attributes that export a symbol.
const EXPORTING: [&str; 2] = ["no_mangle", "export_name"];
/// The linker's list of exports, below the project's directory.
const MAP: &str = "build-aux/sparsestream.map";

/// Fails unless every export is one call of a guard, stands in `src/ffi`, and is in the version map.
pub fn check(root: &Path) -> Outcome {
    let sources = source::below(root, "src")?;
    let map = source::read(&root.join(MAP))?;
    let mut problems = Vec::new();
    let mut exported = BTreeSet::new();
    for source in &sources {
        exported.extend(check_source(source, &mut problems));
    }
    check_map(&exported, &map, &mut problems);
    if problems.is_empty() {
        Ok(format!(
            "{} exports: each is one call of a guard, and in the version map",
            exported.len()
        ))
    } else {
        Err(problems.join("\n"))
    }
}

/// The names that a file exports; what is wrong with them goes to `problems`.
fn check_source(source: &Source, problems: &mut Vec<String>) -> Vec<String> {
    let mut names = Vec::new();
    source::for_each_item(&source.file.items, &mut |item| {
        let syn::Item::Fn(function) = item else { return };
        if !function.attrs.iter().any(exports) {
            return;
        }
        let line = function.sig.ident.span().start().line;
        let name = function.sig.ident.to_string();
        if let Err(reason) = check_function(function) {
            problems.push(format!("{}:{line}: {name}: {reason}", source.path.display()));
        }
        names.push(name);
    });
    if !names.is_empty() && !source.path.starts_with("src/ffi") {
        problems.push(format!("{}: exports belong in src/ffi", source.path.display()));
    }
    let written = source::count_identifiers(&source.tokens, &EXPORTING);
    if written != names.len() {
        problems.push(format!(
            "{}: {written} attributes that export, but {} functions that carry one: \
             an export is a plain function, not a static, a method or a macro's work",
            source.path.display(),
            names.len()
        ));
    }
    names
}

fn exports(attribute: &Attribute) -> bool {
    let tokens = match &attribute.meta {
        syn::Meta::Path(path) => return EXPORTING.iter().any(|name| path.is_ident(name)),
        syn::Meta::List(list) => list.tokens.clone(),
        syn::Meta::NameValue(pair) => return EXPORTING.iter().any(|name| pair.path.is_ident(name)),
    };
    source::count_identifiers(&tokens, &EXPORTING) != 0
}

fn check_function(function: &ItemFn) -> Result<(), String> {
    let signature = &function.sig;
    if !signature.ident.to_string().starts_with("sparsestream_") {
        return Err("an export is called sparsestream_...".to_owned());
    }
    if !matches!(function.vis, syn::Visibility::Public(_)) {
        return Err("an export is pub".to_owned());
    }
    let abi = signature.abi.as_ref().and_then(|abi| abi.name.as_ref()).map(syn::LitStr::value);
    if abi.as_deref() != Some("C") {
        return Err("an export is extern \"C\"".to_owned());
    }
    if !function.attrs.iter().any(|attribute| attribute.path().is_ident("doc")) {
        return Err("an export has a doc comment, which is its manual".to_owned());
    }
    check_body(function)
}

/// The body is `guard::name(...)` and nothing else, and nothing runs to make its arguments.
fn check_body(function: &ItemFn) -> Result<(), String> {
    let wanted = || format!("the body is one call of guard::{{{}}}", GUARDS.join(", "));
    let [Stmt::Expr(Expr::Call(call), semicolon)] = &function.block.stmts[..] else {
        return Err(wanted());
    };
    let Expr::Path(path) = &*call.func else {
        return Err(wanted());
    };
    let path: Vec<String> = path.path.segments.iter().map(|part| part.ident.to_string()).collect();
    match &path[..] {
        [module, guard] if module == "guard" && GUARDS.contains(&guard.as_str()) => {}
        _ => return Err(wanted()),
    }
    if semicolon.is_some() && !matches!(function.sig.output, ReturnType::Default) {
        return Err(wanted());
    }
    match call.args.iter().find(|argument| !matches!(argument, Expr::Closure(_) | Expr::Path(_))) {
        None => Ok(()),
        Some(argument) => Err(format!(
            "line {}: what is handed to the guard is a closure or a name, so that all runs inside",
            argument.span().start().line
        )),
    }
}

fn check_map(exported: &BTreeSet<String>, map: &str, problems: &mut Vec<String>) {
    let mut mapped = BTreeSet::new();
    for name in map.lines().filter_map(|line| line.trim().strip_suffix(';')) {
        if name.starts_with("sparsestream_") && !mapped.insert(name.to_owned()) {
            problems.push(format!("{MAP}: {name} is there twice"));
        } else if name.contains('*') && name != "*" {
            problems.push(format!("{MAP}: {name} is a pattern; each export is named"));
        }
    }
    for name in exported.difference(&mapped) {
        problems.push(format!("{MAP}: {name} is missing"));
    }
    for name in mapped.difference(exported) {
        problems.push(format!("{MAP}: {name} is exported by no function"));
    }
    if exported.is_empty() {
        problems.push("no exports were found".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problems of a file of `src/ffi`, and the names that it exports.
    fn examine(path: &str, text: &str) -> (Vec<String>, Vec<String>) {
        let mut problems = Vec::new();
        let source = Source::parse(Path::new(path), text).unwrap();
        let names = check_source(&source, &mut problems);
        (problems, names)
    }

    fn body(body: &str) -> Vec<String> {
        let text = format!(
            "/// Doc.\n#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn sparsestream_a(x: c_int) -> c_int {{ {body} }}"
        );
        let (problems, names) = examine("src/ffi/a.rs", &text);
        assert_eq!(names, ["sparsestream_a"]);
        problems
    }

    #[test]
    fn one_call_of_a_guard_passes() {
        for good in [
            "guard::code(|| Ok(0))",
            "guard::count(|| { let y = unsafe { f(x) }?; Ok(y) })",
            "guard::text(guard::message)",
            "guard::signal_safe(|| unsafe { handles::cancel(x) })",
        ] {
            assert_eq!(body(good), [""; 0], "{good}");
        }
        let quiet = "/// Doc.\n#[unsafe(no_mangle)] pub extern \"C\" fn sparsestream_free() { guard::quiet(|| ()); }";
        assert_eq!(examine("src/ffi/a.rs", quiet).0, [""; 0]);
    }

    #[test]
    fn anything_beside_the_call_fails() {
        for bad in [
            "0",
            "",
            "let y = f(x); guard::code(|| Ok(y))",
            "guard::code(|| Ok(0)) + 1",
            "unsafe { guard::code(|| Ok(0)) }",
            "if x > 0 { guard::code(|| Ok(0)) } else { 0 }",
            "guard::output(|| Ok(0))",
            "other::code(|| Ok(0))",
            "crate::guard::code(|| Ok(0))",
            "code(|| Ok(0))",
            "guard::code(f(x))",
            "guard::code(|| Ok(0), x + 1)",
            "guard::code(|| Ok(0));",
            "return guard::code(|| Ok(0));",
        ] {
            assert_eq!(body(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn what_is_no_plain_documented_function_fails() {
        for bad in [
            "/// Doc.\n#[unsafe(no_mangle)] pub extern \"C\" fn other() { guard::quiet(|| ()) }",
            "/// Doc.\n#[unsafe(no_mangle)] extern \"C\" fn sparsestream_a() { guard::quiet(|| ()) }",
            "/// Doc.\n#[unsafe(no_mangle)] pub fn sparsestream_a() { guard::quiet(|| ()) }",
            "/// Doc.\n#[unsafe(no_mangle)] pub extern \"C-unwind\" fn sparsestream_a() { guard::quiet(|| ()) }",
            "#[unsafe(no_mangle)] pub extern \"C\" fn sparsestream_a() { guard::quiet(|| ()) }",
            "/// Doc.\n#[unsafe(export_name = \"x\")] pub extern \"C\" fn a() { guard::quiet(|| ()) }",
            "/// Doc.\n#[unsafe(no_mangle)] pub static SPARSESTREAM: u8 = 0;",
            "struct S; impl S { /// Doc.\n#[unsafe(no_mangle)] pub extern \"C\" fn sparsestream_a() { guard::quiet(|| ()) } }",
            "macro_rules! m { () => { #[unsafe(no_mangle)] pub extern \"C\" fn sparsestream_a() {} } } m!();",
        ] {
            assert_eq!(examine("src/ffi/a.rs", bad).0.len(), 1, "{bad}");
        }
    }

    #[test]
    fn an_export_outside_ffi_fails() {
        let text = "/// Doc.\n#[unsafe(no_mangle)] pub extern \"C\" fn sparsestream_a() { guard::quiet(|| ()) }";
        assert_eq!(examine("src/ffi/deep/a.rs", text).0, [""; 0]);
        assert_eq!(examine("src/transfer.rs", text).0.len(), 1);
    }

    #[test]
    fn the_map_and_the_exports_are_the_same_set() {
        let exported = BTreeSet::from(["sparsestream_a".to_owned(), "sparsestream_b".to_owned()]);
        let problems = |map: &str| {
            let mut problems = Vec::new();
            check_map(&exported, map, &mut problems);
            problems.len()
        };
        let map =
            |names: &str| format!("SPARSESTREAM_0.1 {{\n global:\n{names}\n local:\n *;\n}};\n");
        assert_eq!(problems(&map("sparsestream_a;\nsparsestream_b;")), 0);
        assert_eq!(problems(&map("sparsestream_a;")), 1);
        assert_eq!(problems(&map("sparsestream_a;\nsparsestream_b;\nsparsestream_c;")), 1);
        assert_eq!(problems(&map("sparsestream_a;\nsparsestream_b;\nsparsestream_b;")), 1);
        assert_eq!(problems(&map("sparsestream_a;\nsparsestream_b;\nsparsestream_*;")), 2);
    }
}
