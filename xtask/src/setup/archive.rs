//! Debian's archive, read by an apt whose state lies below `target/tools/apt`. Packages of any suite are downloaded and unpacked,
//! never installed: the host's apt and dpkg stay as they are, and nothing needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::apt;
use crate::console::{Step, Tone};
use crate::process::{self, answer, keep_log, observe, tail};
use crate::workspace::own_target;

/// The keys of the archive, in Debian's package of the same name. Without it apt takes the keys that the host trusts.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A suite that has a security suite only for the release that it belongs to.
const BACKPORTS: &str = "-backports";

/// The suite that gets its security updates like all others.
const UNSTABLE: &str = "sid";

/// A suite of the archive, with its package lists.
pub(crate) struct Suite {
    name: String,
    /// The folder of its apt.
    state: PathBuf,
}

impl Suite {
    /// Fetches the package lists of a suite, if they have changed.
    ///
    /// # Errors
    /// If the host's apt has no source of Debian's archive, or that has no such suite.
    pub(crate) fn open(name: &str) -> Result<Self> {
        ensure!(apt::exists(), "Debian's packages need apt, which this system has not");
        let suite = Self { name: name.to_owned(), state: own_target().join("tools/apt").join(name) };
        for folder in ["lists/partial", "archives/partial"] {
            let folder = suite.state.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        suite.write("status", "")?;
        suite.write("sources.list", &sources(name, &Mirrors::of_host()?))?;
        suite.write("apt.conf", &suite.settings()?)?;
        process::step(
            &format!("fetch the package lists of Debian {name}"),
            suite.apt("apt-get").arg("update"),
            "see what apt says above: the network and the host's sources of Debian's packages must work",
        )?;
        Ok(suite)
    }

    /// The packages that `package` is made of: those that it needs with names that begin with `prefix`, and itself.
    pub(crate) fn parts(&self, package: &str, prefix: &str) -> Result<Vec<String>> {
        let mut ask = self.apt("apt-cache");
        ask.args(["depends", "--recurse", "--important", package]);
        let said =
            answer(&mut ask).with_context(|| format!("Debian {} has no package {package}", self.name))?;
        // The packages begin their lines, and what they need is indented.
        Ok(said.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// Downloads `packages`, which make up `what`, and unpacks them into a new folder `root`.
    pub(crate) fn unpack(&self, what: &str, packages: &[String], root: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download.arg("download").args(packages).current_dir(self.archives());
        self.fetch(what, &mut download)?;
        self.extract(root)
    }

    /// The same with all packages that they need.
    pub(crate) fn unpack_with_needs(&self, what: &str, packages: &[&str], root: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download.args(["install", "--yes", "--download-only"]).args(packages);
        self.fetch(what, &mut download)?;
        self.extract(root)
    }

    fn fetch(&self, what: &str, download: &mut Command) -> Result<()> {
        self.clear()?;
        let title = format!("fetch {what} of Debian {}", self.name);
        let mut step = Step::begin(&title);
        let ended =
            observe(download, &mut step, |_, line| line.split(' ').next().unwrap_or_default().to_owned())?;
        if !ended.status.success() {
            step.end(Tone::Bad, "");
            println!("{}", tail(&ended.output));
            bail!(
                "{title}: apt-get ended with {}\n  whole log: {}",
                ended.status,
                keep_log(&title, &ended.output)?
            );
        }
        let files = self.packages()?;
        let bytes: u64 = files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
        step.end(Tone::Good, &format!("{} packages, {} MB", files.len(), bytes / 1_000_000));
        Ok(())
    }

    /// Unpacks all packages that were downloaded, and removes them.
    fn extract(&self, root: &Path) -> Result<()> {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("cannot remove {}", root.display()))?;
        }
        fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        let files = self.packages()?;
        let mut step = Step::begin(&format!("unpack {} packages into {}", files.len(), root.display()));
        for file in &files {
            let output = Command::new("dpkg-deb").arg("--extract").arg(file).arg(root).output();
            let output = output.context("cannot start dpkg-deb")?;
            if !output.status.success() {
                step.end(Tone::Bad, "");
                bail!("cannot unpack {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
            }
            step.tick(&file.file_name().unwrap_or_default().to_string_lossy());
        }
        step.end(Tone::Good, "");
        self.clear()
    }

    fn clear(&self) -> Result<()> {
        for file in self.packages()? {
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        Ok(())
    }

    /// The files of the packages that were downloaded.
    fn packages(&self) -> Result<Vec<PathBuf>> {
        let folder = self.archives();
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let files = entries.flatten().map(|entry| entry.path());
        Ok(files.filter(|file| file.extension().is_some_and(|kind| kind == "deb")).collect())
    }

    fn archives(&self) -> PathBuf {
        self.state.join("archives")
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.state.join("apt.conf")).env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// The settings of its apt. Of the host's only those count that say how to download: a proxy, for instance.
    fn settings(&self) -> Result<String> {
        let state = self.state.to_str().filter(|path| !path.contains('"'));
        let state = state.with_context(|| format!("apt cannot have this path: {}", self.state.display()))?;
        let dump = answer(Command::new("apt-config").arg("dump")).context("apt-config dump failed")?;
        let is_kept =
            |line: &&str| line.starts_with("Acquire::") && !line.starts_with("Acquire::IndexTargets");
        let mut text: String = dump.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
        for (name, value) in [
            ("Dir::State", ""),
            ("Dir::State::lists", "/lists"),
            ("Dir::State::status", "/status"),
            ("Dir::Cache", ""),
            ("Dir::Cache::archives", "/archives"),
            ("Dir::Etc::sourcelist", "/sources.list"),
        ] {
            text.push_str(&format!("{name} \"{state}{value}\";\n"));
        }
        for name in ["sourceparts", "main", "parts", "preferences", "preferencesparts"] {
            text.push_str(&format!("Dir::Etc::{name} \"/dev/null\";\n"));
        }
        // apt's own user cannot write below target/.
        text.push_str("APT::Sandbox::User \"root\";\nAPT::Install-Recommends \"false\";\n");
        text.push_str("APT::Architecture \"amd64\";\nAPT::Architectures { \"amd64\"; };\n");
        text.push_str("APT::Update::Error-Mode \"any\";\n");
        text.push_str("Acquire::Languages \"none\";\nAcquire::GzipIndexes \"true\";\n");
        if self.name.ends_with(BACKPORTS) {
            // Without this apt prefers the release's own packages.
            text.push_str(&format!("APT::Default-Release \"{}\";\n", self.name));
        }
        Ok(text)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.state.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// The name of the host's release of Debian.
///
/// # Errors
/// If the host is no Debian.
pub(crate) fn host_release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    release(&text).context("this system is not a release of Debian")
}

fn release(os_release: &str) -> Option<String> {
    let value = |name: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"'))
    };
    if value("ID") == Some("debian") { value("VERSION_CODENAME").map(str::to_owned) } else { None }
}

/// Where the host's apt finds Debian's archive.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: Option<String>,
}

impl Mirrors {
    fn of_host() -> Result<Self> {
        let mut ask = Command::new("apt-get");
        ask.args(["indextargets", "--format", "$(LABEL)|$(RELEASE)|$(REPO_URI)", "Created-By: Packages"]);
        let said = answer(&mut ask).context("apt-get indextargets failed")?;
        let found = Self::among(&said, host_release().ok().as_deref());
        found.context("the host's apt has no source of Debian's packages")
    }

    /// Finds them among lines of label, release and address. A source whose lists were never fetched has no label.
    fn among(targets: &str, host_release: Option<&str>) -> Option<Self> {
        let find = |wanted: &str, end: &str| {
            targets.lines().find_map(|line| {
                let [label, release, address] = line.split('|').collect::<Vec<_>>()[..] else { return None };
                let is_hosts = host_release.is_some_and(|host| release.strip_suffix(end) == Some(host));
                (label == wanted || is_hosts).then(|| address.to_owned())
            })
        };
        Some(Self { main: find("Debian", "")?, security: find("Debian-Security", "-security") })
    }
}

/// The list of sources of a suite.
fn sources(suite: &str, mirrors: &Mirrors) -> String {
    let keys = if Path::new(KEYRING).is_file() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    let release = suite.strip_suffix(BACKPORTS).unwrap_or(suite);
    let mut text = format!("deb {keys}{} {release} main\n", mirrors.main);
    if let Some(security) = mirrors.security.as_ref().filter(|_| suite != UNSTABLE) {
        text.push_str(&format!("deb {keys}{security} {release}-security main\n"));
    }
    if suite != release {
        text.push_str(&format!("deb {keys}{} {suite} main\n", mirrors.main));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors() -> Mirrors {
        Mirrors { main: "http://a/debian/".to_owned(), security: Some("http://b/security/".to_owned()) }
    }

    #[test]
    fn mirrors_are_known_by_the_labels_of_their_lists() {
        let targets = "Other|x|http://x/\nDebian|bookworm|http://a/debian/\n\
                       Debian-Security|bookworm-security|http://b/security/\n";
        assert_eq!(Mirrors::among(targets, None), Some(mirrors()));
        assert_eq!(Mirrors::among("Ubuntu|noble|http://u/\n", None), None);
    }

    #[test]
    fn mirrors_are_known_by_the_release_before_their_lists_are_fetched() {
        let targets = "$(LABEL)|trixie|http://a/debian/\n$(LABEL)|trixie-security|http://b/security/\n";
        assert_eq!(Mirrors::among(targets, Some("trixie")), Some(mirrors()));
        assert_eq!(Mirrors::among(targets, None), None);
    }

    #[test]
    fn each_suite_comes_with_its_security_updates() {
        let suites = |suite: &str| {
            let text = sources(suite, &mirrors());
            text.lines().filter_map(|line| Some(line.rsplit(' ').nth(1)?.to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(suites("sid"), ["sid"]);
        assert_eq!(suites("bookworm"), ["bookworm", "bookworm-security"]);
        assert_eq!(suites("trixie-backports"), ["trixie", "trixie-security", "trixie-backports"]);
    }

    #[test]
    fn only_a_debian_has_a_release_of_debian() {
        assert_eq!(release("ID=debian\nVERSION_CODENAME=\"trixie\"\n").as_deref(), Some("trixie"));
        assert_eq!(release("ID=ubuntu\nVERSION_CODENAME=noble\n"), None);
    }
}
