//! Imports between the modules of a crate go one way: no module imports, directly or through others, one that imports it. Only a
//! module and the modules below it may use each other.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::Finding;
use super::modules::{Crate, Import};
use super::source::Source;

/// Files of circles that are there still. A file goes from the list when its circle has gone; none is added.
const KNOWN: [&str; 6] = [
    "proxy-user/src/datapath/packet/adopt.rs",
    "proxy-user/src/datapath/packet/ask.rs",
    "proxy-user/src/datapath/packet/end.rs",
    "proxy-user/src/datapath/packet/journal/note.rs",
    "proxy-user/src/datapath/packet/offload_table.rs",
    "proxy-user/src/datapath/packet/progress.rs",
];

/// The folder of the daemon's crate.
const DAEMON: &str = "proxy-user/src";

/// Files that all lead to each other, and a shortest way from one of them back to it.
struct Group {
    files: BTreeSet<String>,
    circle: Vec<Import>,
}

/// Finds circles among the files of each crate: paths with texts.
pub(super) fn check(files: &[(String, String)]) -> Vec<Finding> {
    let mut crates: BTreeMap<&str, Crate> = BTreeMap::new();
    let roots: BTreeSet<&str> = files.iter().filter_map(|(path, _)| root_of(path)).collect();
    for (path, text) in files {
        let Some((root, module)) = module_of(path, &roots) else { continue };
        // A file that is no Rust is reported by itself.
        let Ok(source) = Source::parse(path, text) else { continue };
        crates.entry(root).or_default().add(&module, &source);
    }
    let groups: Vec<Group> = crates.values().flat_map(|modules| groups(&modules.imports())).collect();
    let mut found = findings(&groups, &KNOWN);
    if roots.contains(DAEMON) {
        found.extend(gone(&groups, &KNOWN));
    }
    found
}

/// The folder of a crate, if this is its root module.
fn root_of(path: &str) -> Option<&str> {
    path.strip_suffix("/lib.rs").or_else(|| path.strip_suffix("/main.rs"))
}

/// The folder of the crate that a file is in, and its module there. None: it is a crate by itself, or a program beside a library.
fn module_of<'a>(path: &str, roots: &BTreeSet<&'a str>) -> Option<(&'a str, Vec<String>)> {
    let is_inside = |root: &&&str| path.strip_prefix(**root).is_some_and(|rest| rest.starts_with('/'));
    let root = roots.iter().filter(is_inside).max_by_key(|root| root.len())?;
    let file = path.get(root.len() + 1..)?.strip_suffix(".rs")?;
    let file = file.strip_suffix("/mod").unwrap_or(file);
    match file {
        // The daemon's `main.rs` is a program beside the library.
        "main" if *root == DAEMON => None,
        "lib" | "main" => Some((root, Vec::new())),
        _ if file.starts_with("bin/") => None,
        _ => Some((root, file.split('/').map(str::to_owned).collect())),
    }
}

fn findings(groups: &[Group], known: &[&str]) -> Vec<Finding> {
    let is_new = |group: &&Group| group.files.iter().any(|file| !known.contains(&file.as_str()));
    groups.iter().filter(is_new).filter_map(|group| report(&group.circle)).collect()
}

/// Files of the list that are in no circle any more.
fn gone<'a>(groups: &[Group], known: &'a [&str]) -> impl Iterator<Item = Finding> + use<'a> {
    let files: BTreeSet<String> = groups.iter().flat_map(|group| group.files.clone()).collect();
    let gone = known.iter().filter(move |file| !files.contains(**file));
    gone.map(|file| {
        Finding::new(
            file,
            1,
            "it is in no circle of imports any more: remove it from the list in xtask/src/rules/circles.rs",
        )
    })
}

fn report(circle: &[Import]) -> Option<Finding> {
    let first = circle.first()?;
    let files: Vec<&str> = circle.iter().map(|import| import.to.as_str()).collect();
    let what = format!(
        "modules import each other in a circle: {} -> {}; move what they share into a module of its own",
        first.from,
        files.join(" -> ")
    );
    Some(Finding::new(&first.from, first.line, what))
}

fn groups(imports: &[Import]) -> Vec<Group> {
    let mut found: Vec<Group> = Vec::new();
    for start in imports.iter().map(|import| import.from.as_str()) {
        if found.iter().any(|group| group.files.contains(start)) {
            continue;
        }
        let Some(circle) = way(imports, start, start) else { continue };
        let ends = imports.iter().map(|import| import.from.as_str());
        let is_in = |end: &&str| way(imports, start, end).is_some() && way(imports, end, start).is_some();
        found.push(Group { files: ends.filter(is_in).map(str::to_owned).collect(), circle });
    }
    found
}

/// The imports on a shortest way.
fn way(imports: &[Import], from: &str, to: &str) -> Option<Vec<Import>> {
    let mut came_by: HashMap<&str, &Import> = HashMap::new();
    let mut open = VecDeque::from([from]);
    while let Some(at) = open.pop_front() {
        for import in imports.iter().filter(|import| import.from == at) {
            if came_by.contains_key(import.to.as_str()) {
                continue;
            }
            came_by.insert(&import.to, import);
            if import.to == to {
                let mut steps = vec![import.clone()];
                let mut at = import.from.as_str();
                while at != from {
                    let step = came_by.get(at)?;
                    steps.push((*step).clone());
                    at = &step.from;
                }
                steps.reverse();
                return Some(steps);
            }
            open.push_back(&import.to);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> =
            texts.iter().map(|(path, text)| (format!("x/src/{path}"), (*text).to_owned())).collect();
        check(&files).iter().map(ToString::to_string).collect()
    }

    const ROOT: (&str, &str) = ("lib.rs", "mod a; mod b; mod c;");

    #[test]
    fn modules_that_import_each_other_are_found_through_others() {
        let found = found(&[
            ROOT,
            ("a.rs", "\nuse crate::b::g;\npub fn f() { g() }"),
            ("b.rs", "pub fn g() { super::c::h() }"),
            ("c/mod.rs", "mod d; pub use d::h;"),
            ("c/d.rs", "use crate::a; pub fn h() { a::f() }"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("x/src/a.rs:2: modules import each other in a circle: x/src/a.rs -> x/src/b.rs -> x/src/c/d.rs -> x/src/a.rs;"),
            "{found:?}"
        );
    }

    #[test]
    fn a_module_and_those_below_it_may_use_each_other() {
        let texts = [
            ("lib.rs", "mod c; pub fn root() { c::h() }"),
            ("c/mod.rs", "mod d; mod e; use d::h; pub struct T; pub fn i() { h() }"),
            ("c/d.rs", "use super::T; use super::e::j; pub fn h() -> T { j(); crate::root() }"),
            ("c/e.rs", "use super::T; pub fn j() -> T { super::i() }"),
        ];
        assert!(found(&texts).is_empty(), "{:?}", found(&texts));
    }

    #[test]
    fn tests_comments_and_names_of_others_are_no_imports() {
        let texts = [
            ROOT,
            ("a.rs", "use crate::b::g; pub fn f() { g() } #[cfg(test)] mod tests { use crate::c::h; }"),
            (
                "b.rs",
                "// crate::a::f\nuse log::log; use std::a::f; pub fn g() { log!(\"crate::a::f\") }\n#[cfg(test)] use crate::a::f;",
            ),
            ("c.rs", "pub(crate) use crate::a::f; #[test] fn t() { crate::b::g() } pub fn h() {}"),
        ];
        assert!(found(&texts).is_empty(), "{:?}", found(&texts));
    }

    #[test]
    fn a_name_is_followed_to_where_it_is_defined() {
        // `a` names what `b` passes on from `c`: it does not use `b`.
        let texts = [
            ROOT,
            ("a.rs", "use crate::b::{self, T}; pub fn f() -> T { b::U }"),
            ("b.rs", "pub use crate::c::{T, Other as U}; pub fn g() { crate::a::f() }"),
            ("c.rs", "pub struct T; pub struct Other;"),
        ];
        assert!(found(&texts).is_empty(), "{:?}", found(&texts));
        let [root, a, b, _] = texts;
        let circle =
            found(&[root, a, b, ("c.rs", "pub struct T; pub struct Other; fn x() { super::b::g() }")]);
        assert_eq!(circle.len(), 1, "{circle:?}");
    }

    #[test]
    fn circles_that_are_known_are_no_findings_and_the_list_holds_no_others() {
        let import = |from: &str, to: &str| Import { from: from.to_owned(), to: to.to_owned(), line: 1 };
        let groups = groups(&[import("a", "b"), import("b", "a"), import("c", "a")]);
        assert!(findings(&groups, &["a", "b"]).is_empty());
        assert_eq!(findings(&groups, &["a"]).len(), 1);
        let gone: Vec<_> = gone(&groups, &["a", "b", "c"]).map(|finding| finding.path).collect();
        assert_eq!(gone, ["c"]);
    }
}
