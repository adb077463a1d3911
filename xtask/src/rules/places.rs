//! No file knows the machine it was written on, or where a registry happens to live.

use super::Finding;

/// Top-level folders of machines that people work on.
const FOLDERS: [&str; 3] = ["work", "root", "home"];

/// Registries: name and domain apart, so that this file does not break its own rule.
const HOSTS: [(&str, &str); 12] = [
    ("index", "crates.io"),
    ("static", "crates.io"),
    ("static", "rust-lang.org"),
    ("sh", "rustup.rs"),
    ("deb", "debian.org"),
    ("security", "debian.org"),
    ("archive", "ubuntu.com"),
    ("registry", "npmjs.org"),
    ("files", "pythonhosted.org"),
    ("registry-1", "docker.io"),
    ("proxy", "golang.org"),
    ("ghcr", "io"),
];

/// Files that are not ours to word.
const EXEMPT: [&str; 2] = ["LICENSE", "Cargo.lock"];

/// Finds absolute paths of one machine, and names of registry hosts.
pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if EXEMPT.iter().any(|exempt| name.starts_with(exempt)) {
        return Vec::new();
    }
    let hosts: Vec<String> = HOSTS.iter().map(|(host, domain)| format!("{host}.{domain}")).collect();
    let folders: Vec<String> = FOLDERS.iter().map(|folder| format!("/{folder}/")).collect();
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for host in hosts.iter().filter(|host| line.contains(host.as_str())) {
            found.push(Finding::new(
                path,
                number,
                format!("{host} is a registry's host: leave it to the tools"),
            ));
        }
        for folder in folders.iter().filter(|folder| is_absolute(line, folder)) {
            found.push(Finding::new(
                path,
                number,
                format!("{folder} is a path of one machine: make it relative"),
            ));
        }
    }
    found
}

/// True where `folder` begins a path, and is not in the middle of one.
fn is_absolute(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        before.is_none_or(|c| !(c.is_alphanumeric() || "._-~*}/)".contains(c)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(template: &str) -> String {
        template.replace("HOST", &["index", "crates.io"].join(".")).replace("WORK", "work")
    }

    #[test]
    fn machine_paths_and_registry_hosts_are_found() {
        let text = with("a\nsee /WORK/main\nfetch https://HOST/x\nPATH=/WORK/bin\n");
        let lines: Vec<usize> = check("docs/a.md", &text).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [2, 3, 4]);
    }

    #[test]
    fn relative_paths_and_prose_are_fine() {
        let text = with("net/WORK/x, ${WORKSPACE}/WORK/, crates.io, https://example.org/WORK/x\n");
        assert!(check("docs/a.md", &text).is_empty());
    }

    #[test]
    fn licences_and_the_lock_file_are_not_ours_to_word() {
        let text = with("HOST");
        assert!(check("Cargo.lock", &text).is_empty());
        assert!(check("LICENSE-MIT", &text).is_empty());
        assert_eq!(check("Cargo.toml", &text).len(), 1);
    }
}
