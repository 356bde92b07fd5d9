//! The rule that every export goes through one wrapper, and the version map.

use crate::source::{self, Source};
use crate::{Outcome, header};
use std::collections::BTreeSet;
use std::path::Path;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, ItemFn, ReturnType, Stmt};

/// The functions of `src/ffi/guard.rs` that an export may be a call of.
const GUARDS: [&str; 6] = ["code", "count", "query", "text", "quiet", "signal_safe"];
/// Attributes that export a symbol.
const EXPORTING: [&str; 2] = ["no_mangle", "export_name"];
/// The linker's list of exports, below the project's directory.
const MAP: &str = "build-aux/sparsestream.map";

/// Fails unless every export is one call of a guard, stands in `src/ffi`, and is in the version map.
pub fn check(root: &Path) -> Outcome {
    let sources = source::below(root, "src")?;
    let map = source::read(&root.join(MAP))?;
    let version = header::version(&source::read(&root.join("Cargo.toml"))?)?;
    let mut problems = Vec::new();
    let mut exported = BTreeSet::new();
    for source in &sources {
        exported.extend(check_source(source, &mut problems));
    }
    check_map(&exported, &map, &version, &mut problems);
    if problems.is_empty() {
        Ok(format!(
            "{} exports: each is one call of a guard, and in one node of the version map",
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

/// A version node of the map.
struct Node<'a> {
    name: &'a str,
    /// Its names, patterns among them, and whether they are exported.
    names: Vec<(&'a str, bool)>,
    /// The node that it follows.
    follows: Option<&'a str>,
}

/// The nodes of a version map, or the line that does not belong to one.
fn nodes(map: &str) -> Result<Vec<Node<'_>>, String> {
    let mut nodes = Vec::new();
    let mut open: Option<Node> = None;
    let mut exported = false;
    for line in map.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match (&mut open, line) {
            (None, _) if line.ends_with(" {") => {
                exported = false;
                open = Some(Node { name: &line[..line.len() - 2], names: vec![], follows: None });
            }
            (Some(_), "global:") => exported = true,
            (Some(_), "local:") => exported = false,
            (Some(node), _) if line.starts_with('}') && line.ends_with(';') => {
                let follows = line[1..line.len() - 1].trim();
                node.follows = (!follows.is_empty()).then_some(follows);
                nodes.extend(open.take());
            }
            (Some(node), _) if line.ends_with(';') => {
                node.names.push((&line[..line.len() - 1], exported));
            }
            _ => return Err(format!("{MAP}: cannot read this line: {line}")),
        }
    }
    Ok(nodes)
}

/// The version of a node, as numbers.
fn version_of_node(name: &str) -> Option<(u32, u32)> {
    let (major, minor) = name.strip_prefix("SPARSESTREAM_")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Fails unless the map has one node a version, each after the one before, the newest not newer than
/// the library, and each export in one of them.
fn check_map(exported: &BTreeSet<String>, map: &str, version: &str, problems: &mut Vec<String>) {
    let nodes = match nodes(map) {
        Ok(nodes) => nodes,
        Err(problem) => return problems.push(problem),
    };
    let mut mapped = BTreeSet::new();
    let mut last: Option<&Node> = None;
    for node in &nodes {
        let name = node.name;
        match (version_of_node(name), last.map(|last| version_of_node(last.name))) {
            (None, _) => problems.push(format!("{MAP}: {name} is not SPARSESTREAM_MAJOR.MINOR")),
            (this, Some(before)) if this <= before => {
                problems.push(format!("{MAP}: {name} does not come after the node before it"));
            }
            _ => {}
        }
        if node.follows != last.map(|last| last.name) {
            problems.push(format!("{MAP}: {name} ends in the name of the node before it, if any"));
        }
        let locals: Vec<_> = node.names.iter().filter(|name| !name.1).map(|name| name.0).collect();
        let wanted: &[&str] = if last.is_none() { &["*"] } else { &[] };
        if locals != wanted {
            problems.push(format!("{MAP}: the first node, and no other, has `local: *`: {name}"));
        }
        for (export, _) in node.names.iter().filter(|name| name.1) {
            if export.contains('*') {
                problems.push(format!("{MAP}: {export} is a pattern; each export is named"));
            } else if !mapped.insert((*export).to_owned()) {
                problems.push(format!("{MAP}: {export} is there twice"));
            }
        }
        last = Some(node);
    }
    let newest = last.and_then(|node| version_of_node(node.name));
    let own = version
        .rsplit_once('.')
        .and_then(|own| version_of_node(&format!("SPARSESTREAM_{}", own.0)));
    if own.is_none() || newest > own {
        problems
            .push(format!("{MAP}: its newest node is not of version {version} or an older one"));
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

    fn problems_of_map(exports: &[&str], version: &str, map: &str) -> usize {
        let exported = exports.iter().map(|name| (*name).to_owned()).collect();
        let mut problems = Vec::new();
        check_map(&exported, map, version, &mut problems);
        problems.len()
    }

    #[test]
    fn the_map_and_the_exports_are_the_same_set() {
        let problems = |map: &str| {
            let map = format!("SPARSESTREAM_0.1 {{\n global:\n{map}\n local:\n *;\n}};\n");
            problems_of_map(&["sparsestream_a", "sparsestream_b"], "0.1.0", &map)
        };
        assert_eq!(problems("sparsestream_a;\nsparsestream_b;"), 0);
        assert_eq!(problems("sparsestream_a;"), 1);
        assert_eq!(problems("sparsestream_a;\nsparsestream_b;\nsparsestream_c;"), 1);
        assert_eq!(problems("sparsestream_a;\nsparsestream_b;\nsparsestream_b;"), 1);
        assert_eq!(problems("sparsestream_a;\nsparsestream_b;\nsparsestream_*;"), 1);
        assert_eq!(problems("sparsestream_a;\nsparsestream_b"), 1);
    }

    #[test]
    fn a_release_with_exports_has_a_node_of_its_own() {
        let first = "SPARSESTREAM_0.1 {\n global:\n sparsestream_a;\n local:\n *;\n};\n";
        let both = ["sparsestream_a", "sparsestream_b"];
        let second = |text: &str| format!("{first}{text}");
        let good = second("SPARSESTREAM_0.2 {\n global:\n sparsestream_b;\n} SPARSESTREAM_0.1;\n");
        assert_eq!(problems_of_map(&both, "0.2.0", &good), 0);
        assert_eq!(problems_of_map(&both, "0.10.3", &good), 0);
        assert_eq!(problems_of_map(&both, "0.1.7", &good), 1);
        for bad in [
            "SPARSESTREAM_0.2 {\n global:\n sparsestream_b;\n};\n",
            "SPARSESTREAM_0.1 {\n global:\n sparsestream_b;\n} SPARSESTREAM_0.1;\n",
            "SPARSESTREAM_2 {\n global:\n sparsestream_b;\n} SPARSESTREAM_0.1;\n",
            "SPARSESTREAM_0.2 {\n global:\n sparsestream_b;\n local:\n *;\n} SPARSESTREAM_0.1;\n",
            "SPARSESTREAM_0.2 {\n global:\n sparsestream_b;\n} SPARSESTREAM_0.0;\n",
        ] {
            assert_ne!(problems_of_map(&both, "0.2.0", &second(bad)), 0, "{bad}");
        }
    }
}
