//! The modules of a crate: which file each one is, what it defines, and where the names that it uses are defined.

use std::collections::{BTreeMap, HashSet};

use proc_macro2::Delimiter;

use super::source::{Kind, Source};

/// A path from the root of a crate, without `crate`.
type Path = Vec<String>;

/// Names that stand for each other in a row, before a name is taken for one of another crate.
const DEEPEST: usize = 16;

/// One file.
struct Module {
    file: String,
    /// Names of what it defines at its top.
    items: HashSet<String>,
    /// Names that `use` brings in, with the paths they stand for.
    imports: BTreeMap<String, Path>,
    /// Modules whose items are all imported (`use module::*`).
    globs: Vec<Path>,
    /// Paths that its code names, and the lines. Code for tests only is left out.
    named: Vec<(Path, usize)>,
}

/// The modules of one crate by their paths.
#[derive(Default)]
pub(super) struct Crate(BTreeMap<Path, Module>);

/// A file names something that another file defines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) line: usize,
}

impl Crate {
    /// Adds a file. `path`: as the file's modules are nested in the crate.
    pub(super) fn add(&mut self, path: &[String], source: &Source<'_>) {
        let tokens = without_tests(source);
        let mut module = Module {
            file: source.path.to_owned(),
            items: items(source, &tokens),
            imports: BTreeMap::new(),
            globs: Vec::new(),
            named: Vec::new(),
        };
        read_paths(source, &tokens, path, &mut module);
        self.0.insert(path.to_vec(), module);
    }

    /// All imports between files of the crate, once for each pair of files.
    pub(super) fn imports(&self) -> Vec<Import> {
        let mut found = BTreeMap::new();
        for (path, module) in &self.0 {
            for (named, line) in &module.named {
                let Some(target) = self.resolve(path, named) else { continue };
                if target.starts_with(path) || path.starts_with(&target) {
                    continue;
                }
                let Some(to) = self.0.get(&target) else { continue };
                found.entry((module.file.clone(), to.file.clone())).or_insert(*line);
            }
        }
        found.into_iter().map(|((from, to), line)| Import { from, to, line }).collect()
    }

    /// The module that defines what `named` means in the module `at`. None: nothing of this crate.
    fn resolve(&self, at: &[String], named: &[String]) -> Option<Path> {
        let (head, rest) = named.split_first()?;
        if head == "crate" {
            return self.find(&[], rest, 0);
        }
        self.find(at, named, 0)
    }

    /// Follows a path from a module, through what other modules only pass on.
    fn find(&self, at: &[String], named: &[String], depth: usize) -> Option<Path> {
        let module = self.0.get(at)?;
        if depth > DEEPEST {
            return None;
        }
        // A path that ends at a module names nothing that is in it.
        let (head, rest) = named.split_first()?;
        if head == "super" {
            return self.find(at.get(..at.len().checked_sub(1)?)?, rest, depth + 1);
        }
        if head == "self" {
            return self.find(at, rest, depth + 1);
        }
        let child = [at, std::slice::from_ref(head)].concat();
        if self.0.contains_key(&child) {
            return self.find(&child, rest, depth + 1);
        }
        if module.items.contains(head) {
            return Some(at.to_vec());
        }
        if let Some(import) = module.imports.get(head) {
            let whole = [import.as_slice(), rest].concat();
            return self.absolute(at, &whole, depth + 1);
        }
        module.globs.iter().find_map(|glob| {
            let whole = [glob.as_slice(), named].concat();
            self.absolute(at, &whole, depth + 1)
        })
    }

    fn absolute(&self, at: &[String], named: &[String], depth: usize) -> Option<Path> {
        match named.split_first() {
            Some((head, rest)) if head == "crate" => self.find(&[], rest, depth + 1),
            _ => self.find(at, named, depth + 1),
        }
    }
}

/// Indices of the tokens that are not below `#[cfg(test)]`.
fn without_tests(source: &Source<'_>) -> Vec<usize> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < source.tokens.len() {
        if is_test_only(source, at) {
            at = end_of_item(source, at);
        } else {
            kept.push(at);
            at += 1;
        }
    }
    kept
}

/// `#[cfg(test)]` or `#[test]` begins at `at`.
fn is_test_only(source: &Source<'_>, at: usize) -> bool {
    let names = |from: usize| (from..from + 3).map(|at| source.ident(at)).collect::<Vec<_>>();
    source.kind(at) == Some(&Kind::Punct('#'))
        && match names(at + 2).as_slice() {
            [Some("cfg"), None, Some("test")] => {
                source.kind(at + 5) == Some(&Kind::Close(Delimiter::Parenthesis))
            }
            [Some("test"), None, _] => true,
            _ => false,
        }
}

/// The token after the item that begins at `at`: after its `;` or its braces.
fn end_of_item(source: &Source<'_>, mut at: usize) -> usize {
    while at < source.tokens.len() {
        match source.kind(at) {
            Some(Kind::Punct(';')) => return at + 1,
            Some(Kind::Open(delimiter)) => {
                let end = source.close_of(at).unwrap_or(at) + 1;
                if *delimiter == Delimiter::Brace {
                    return end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    at
}

const DEFINING: [&str; 9] = ["fn", "struct", "enum", "union", "trait", "type", "const", "static", "mod"];

/// Names of the items at the top of a file. A `mod name;` is no item: the module has a file of its own.
fn items(source: &Source<'_>, tokens: &[usize]) -> HashSet<String> {
    let mut found = HashSet::new();
    let mut end = 0;
    for &at in tokens {
        if at < end {
            continue;
        }
        match source.kind(at) {
            Some(Kind::Open(_)) => end = source.close_of(at).unwrap_or(at) + 1,
            Some(Kind::Ident(word)) if DEFINING.contains(&word.as_str()) => {
                let has_own_file = word == "mod" && source.kind(at + 2) == Some(&Kind::Punct(';'));
                if let Some(name) = source.ident(at + 1).filter(|_| !has_own_file) {
                    found.insert(name.to_owned());
                }
            }
            Some(Kind::Ident(word)) if word == "macro_rules" => {
                found.extend(source.ident(at + 2).map(str::to_owned));
            }
            _ => {}
        }
    }
    found
}

/// Reads all paths: those of `use`, and those in code.
fn read_paths(source: &Source<'_>, tokens: &[usize], own: &[String], module: &mut Module) {
    let mut end = 0;
    for &at in tokens {
        if at < end {
            continue;
        }
        if source.ident(at) == Some("use") && source.kind(at + 1) != Some(&Kind::Punct('<')) {
            // What a parent passes on to others is no use of it.
            let passed_on = at > 0 && is_public(source, at - 1);
            end = end_of_use(source, at);
            let mut tree = Vec::new();
            read_tree(source, at + 1, end, &[], &mut tree);
            for (name, path, line) in tree {
                if name == "*" {
                    module.globs.push(path);
                    continue;
                }
                if !passed_on {
                    module.named.push((path.clone(), line));
                }
                module.imports.insert(name, path);
            }
            continue;
        }
        let Some(head) = source.ident(at) else { continue };
        if source.continues_path(at) || !source.is_path_separator(at + 1) || own.is_empty() && head == "super"
        {
            continue;
        }
        let mut path = vec![head.to_owned()];
        let mut next = at;
        while source.is_path_separator(next + 1)
            && let Some(name) = source.ident(next + 3)
        {
            path.push(name.to_owned());
            next += 3;
        }
        let line = source.tokens.get(at).map_or(0, |token| token.line);
        module.named.push((path, line));
    }
}

/// `pub` or `pub(...)` ends at `at`.
fn is_public(source: &Source<'_>, at: usize) -> bool {
    if source.ident(at) == Some("pub") {
        return true;
    }
    source.kind(at) == Some(&Kind::Close(Delimiter::Parenthesis))
        && (at.saturating_sub(6)..at).any(|at| source.ident(at) == Some("pub"))
}

fn end_of_use(source: &Source<'_>, at: usize) -> usize {
    (at..source.tokens.len()).find(|&at| source.kind(at) == Some(&Kind::Punct(';'))).unwrap_or(at)
}

/// The names that a `use` tree brings in, with their paths and lines.
fn read_tree(
    source: &Source<'_>,
    mut at: usize,
    end: usize,
    before: &[String],
    found: &mut Vec<(String, Path, usize)>,
) {
    let mut path = before.to_vec();
    while at < end {
        let line = source.tokens.get(at).map_or(0, |token| token.line);
        match source.kind(at) {
            Some(Kind::Ident(name)) if name == "as" => {
                if let Some(alias) = source.ident(at + 1) {
                    found.push((alias.to_owned(), path, line));
                }
                return;
            }
            Some(Kind::Ident(name)) => {
                // `a::{self}` is `a`.
                if name != "self" || path.is_empty() {
                    path.push(name.clone());
                }
                at += 1;
                if !source.is_path_separator(at) && source.ident(at) != Some("as") {
                    if let Some(last) = path.last().cloned() {
                        found.push((last, path, line));
                    }
                    return;
                }
                if source.is_path_separator(at) {
                    at += 2;
                }
            }
            Some(Kind::Punct('*')) => return found.push(("*".to_owned(), path, line)),
            Some(Kind::Open(Delimiter::Brace)) => {
                let close = source.close_of(at).unwrap_or(end);
                let mut next = at + 1;
                while next < close {
                    read_tree(source, next, close, &path, found);
                    next = super::imports::after_comma(source, next, close);
                }
                return;
            }
            _ => at += 1,
        }
    }
}
