//! The library's Rust sources, parsed.

use proc_macro2::{TokenStream, TokenTree};
use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
pub struct Source {
    /// Where it is, below the project's directory.
    pub path: PathBuf,
    /// Its parsed content.
    pub file: syn::File,
    /// The same as tokens, in which nothing can hide.
    pub tokens: TokenStream,
}

impl Source {
    /// Parses `text` as the file at `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let file = syn::parse_file(text).map_err(|error| failed(&error))?;
        let tokens = text.parse().map_err(|error| failed(&error))?;
        Ok(Self { path: path.to_owned(), file, tokens })
    }
}

/// Every source below `directory` of the project at `root`, in order of path.
pub fn below(root: &Path, directory: &str) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    let mut directories = vec![root.join(directory)];
    while let Some(directory) = directories.pop() {
        for path in entries(&directory)? {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(root).expect("it was found below the root");
                sources.push(Source::parse(below, &read(&path)?)?);
            }
        }
    }
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(sources)
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Calls `visit` for every item of a file, those in its inline modules too.
pub fn for_each_item(items: &[syn::Item], visit: &mut impl FnMut(&syn::Item)) {
    for item in items {
        visit(item);
        if let syn::Item::Mod(syn::ItemMod { content: Some((_, inner)), .. }) = item {
            for_each_item(inner, visit);
        }
    }
}

/// How often one of `names` stands in the tokens, at any depth, macros included.
pub fn count_identifiers(tokens: &TokenStream, names: &[&str]) -> usize {
    tokens
        .clone()
        .into_iter()
        .map(|token| match token {
            TokenTree::Ident(ident) => usize::from(names.iter().any(|name| ident == name)),
            TokenTree::Group(group) => count_identifiers(&group.stream(), names),
            TokenTree::Punct(_) | TokenTree::Literal(_) => 0,
        })
        .sum()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("{}: {error}", directory.display());
    fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}
