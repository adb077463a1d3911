//! Imports go one way: from the daemon's outer modules to its inner ones, and from the crates to proxy-common.

use proc_macro2::Delimiter;

use super::Finding;
use super::source::{Kind, Source};

/// The modules of the daemon in the order of imports, each with those that it may import.
const ORDER: [(&str, &[&str]); 6] = [
    ("sys", &[]),
    ("hub", &[]),
    ("kernel", &["sys"]),
    ("datapath", &["sys", "kernel", "hub"]),
    ("front", &["sys", "datapath", "hub"]),
    ("control", &["sys", "hub", "kernel"]),
];

/// Parts of the daemon that connect the modules.
const OUTSIDE: [&str; 4] = ["lib", "main", "daemon", "cli"];

/// Our crates as paths name them.
const CRATES: [&str; 5] = ["proxy_common", "proxy_ebpf", "snisplice", "harness", "xtask"];

/// Folders of our crates, each with those of our crates that their sources may import.
const MAY_IMPORT: [(&str, &[&str]); 4] = [
    ("proxy-common/src/", &[]),
    ("proxy-ebpf/", &["proxy_common"]),
    ("proxy-user/src/", &["proxy_common", "snisplice"]),
    ("xtask/", &[]),
];

/// Finds imports that go the wrong way.
pub(crate) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut found = crates(source);
    if let Some(file) = source.path.strip_prefix("proxy-user/src/") {
        found.extend(modules(source, file));
    }
    found
}

fn crates(source: &Source<'_>) -> Vec<Finding> {
    let Some((folder, allowed)) = MAY_IMPORT.iter().find(|(folder, _)| source.path.starts_with(folder))
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        let Some(name) = token.ident().filter(|name| CRATES.contains(name)) else { continue };
        let head = !source.continues_path(at) && source.is_path_separator(at + 1);
        let whole = at > 0 && matches!(source.ident(at - 1), Some("use" | "crate"));
        if (head || whole) && !allowed.contains(&name) {
            found.push(Finding::new(source.path, token.line, format!("{folder} must not import {name}")));
        }
    }
    found
}

fn modules(source: &Source<'_>, file: &str) -> Vec<Finding> {
    let module = module_of(file);
    let Some(own) = module.first().filter(|own| !OUTSIDE.contains(&own.as_str())) else {
        return Vec::new();
    };
    let Some((_, allowed)) = ORDER.iter().find(|(name, _)| name == own) else {
        let what =
            format!("module {own} is missing in the order of imports: add it to xtask/src/rules/imports.rs");
        return vec![Finding::new(source.path, 1, what)];
    };
    let mut found = Vec::new();
    for (name, line) in root_names(source, &module) {
        let known = ORDER.iter().any(|(known, _)| *known == name) || OUTSIDE.contains(&name.as_str());
        if name == *own || allowed.contains(&name.as_str()) {
            continue;
        }
        let what = if known {
            format!("{own} must not import {name}: it may import only [{}]", allowed.join(", "))
        } else {
            format!("crate::{name} is no module of the order: import it from its own module")
        };
        found.push(Finding::new(source.path, line, what));
    }
    found
}

/// The module path of a file below `src/`: `front/conn.rs` and `front/conn/mod.rs` are front, conn.
fn module_of(file: &str) -> Vec<String> {
    let file = file.trim_end_matches(".rs");
    let file = file.strip_suffix("/mod").unwrap_or(file);
    file.split('/').map(str::to_owned).collect()
}

/// Every name at the root of the crate that a path in `source` leads to, with its line.
fn root_names(source: &Source<'_>, module: &[String]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    // Where each inline module that we are in ends.
    let mut inline: Vec<usize> = Vec::new();
    for at in 0..source.tokens.len() {
        inline.retain(|&end| at < end);
        let name = source.ident(at);
        if name == Some("mod") && source.kind(at + 2) == Some(&Kind::Open(Delimiter::Brace)) {
            inline.extend(source.close_of(at + 2));
        }
        if source.continues_path(at) || !source.is_path_separator(at + 1) {
            continue;
        }
        match name {
            Some("crate") => heads(source, at + 3, &mut found),
            Some("super") => {
                let (up, next) = climb(source, at);
                if up == module.len() + inline.len() {
                    heads(source, next, &mut found);
                }
            }
            _ => {}
        }
    }
    found
}

/// How many modules `super::super::` goes up, and where the path goes on.
fn climb(source: &Source<'_>, mut at: usize) -> (usize, usize) {
    let mut up = 0;
    while source.ident(at) == Some("super") && source.is_path_separator(at + 1) {
        up += 1;
        at += 3;
    }
    (up, at)
}

/// The first name, or the first names of a group, at `at`.
fn heads(source: &Source<'_>, at: usize, found: &mut Vec<(String, usize)>) {
    let Some(token) = source.tokens.get(at) else { return };
    match &token.kind {
        // `use crate::{self}` names no module.
        Kind::Ident(name) if name != "self" => found.push((name.clone(), token.line)),
        Kind::Punct('*') => found.push(("*".to_owned(), token.line)),
        Kind::Open(Delimiter::Brace) => {
            let end = source.close_of(at).unwrap_or(at);
            let mut next = at + 1;
            while next < end {
                heads(source, next, found);
                next = after_comma(source, next, end);
            }
        }
        _ => {}
    }
}

/// The token after the next comma of the same group.
pub(super) fn after_comma(source: &Source<'_>, mut at: usize, end: usize) -> usize {
    while at < end {
        match source.kind(at) {
            Some(Kind::Punct(',')) => return at + 1,
            Some(Kind::Open(_)) => at = source.close_of(at).unwrap_or(end) + 1,
            _ => at += 1,
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Source::parse(path, text).unwrap()).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn modules_may_import_what_the_order_allows() {
        let text =
            "use crate::{hub::{Snapshot, kernel}, sys, datapath::{self, copy}};\nuse proxy_common::plan;\n";
        assert!(lines("proxy-user/src/front/conn.rs", text).is_empty());
        assert!(lines("proxy-user/src/sys/mod.rs", "use super::sys::x; use proxy_common::abi;").is_empty());
        assert!(
            lines("proxy-user/src/kernel/probe.rs", "use super::load; fn f() { crate::sys::g() }").is_empty()
        );
        assert!(lines("proxy-user/src/main.rs", "use snisplice::front; use crate::kernel;").is_empty());
        assert!(lines("proxy-user/src/daemon/start.rs", "use crate::control::x;").is_empty());
    }

    #[test]
    fn imports_against_the_order_are_found_however_they_are_written() {
        let front = "proxy-user/src/front/conn.rs";
        assert_eq!(lines(front, "\nuse crate::kernel::maps;"), [2]);
        assert_eq!(lines(front, "use crate::{\n    hub,\n    kernel::maps,\n    control,\n};"), [3, 4]);
        assert_eq!(lines(front, "use super::super::kernel::maps;"), [1]);
        assert_eq!(lines(front, "use super::super::{hub, control};"), [1]);
        assert_eq!(lines(front, "fn f() { crate::kernel::g() }"), [1]);
        assert_eq!(lines(front, "fn f() { select! { _ = crate::kernel::g() => {} } }"), [1]);
        assert_eq!(lines(front, "mod tests {\n use super::super::super::kernel::g; }"), [2]);
        assert_eq!(lines("proxy-user/src/sys/mod.rs", "use super::hub;"), [1]);
        assert_eq!(lines("proxy-user/src/hub.rs", "use crate::sys;"), [1]);
        assert_eq!(lines("proxy-user/src/control/reload.rs", "use crate::front::drain;"), [1]);
        assert_eq!(
            lines("proxy-user/src/hub/x.rs", "use crate::daemon;\nuse crate::*;\nuse crate::Thing;"),
            [1, 2, 3]
        );
        assert_eq!(lines("proxy-user/src/newmodule/x.rs", ""), [1]);
    }

    #[test]
    fn words_in_comments_strings_and_inner_modules_are_no_imports() {
        let text = "// use crate::kernel::x;\n/// [`crate::kernel::x`]\nconst A: &str = \"crate::kernel::x\";\n\
                    mod a { mod b { use super::super::super::sys; } use super::kernel; }\npub(crate) fn f() {}\n";
        assert!(lines("proxy-user/src/front/conn.rs", text).is_empty());
    }

    #[test]
    fn crates_import_proxy_common_at_most() {
        assert_eq!(lines("proxy-common/src/plan.rs", "use snisplice::x;"), [1]);
        assert_eq!(lines("proxy-ebpf/src/sockmap.rs", "use snisplice::x; use proxy_common::abi;"), [1]);
        assert_eq!(lines("proxy-user/src/front/x.rs", "use harness;"), [1]);
        assert!(lines("proxy-common/tests/laws.rs", "use proxy_common::plan;").is_empty());
        assert!(lines("tests/src/lib.rs", "use proxy_common::plan;").is_empty());
    }
}
