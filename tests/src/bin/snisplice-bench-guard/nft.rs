//! nftables with rules that do the same, in its earliest hook for IP packets.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use harness::command::run;
use harness::netns::Namespace;

/// Where packages put shared libraries.
const LIBRARIES: &str = "usr/lib";

/// The program, installed or unpacked. None: there is none.
#[derive(Debug)]
pub(crate) struct Nft {
    program: PathBuf,
    libraries: Option<String>,
}

impl Nft {
    pub(crate) fn find(rivals: Option<&Path>) -> Option<Self> {
        let installed = ["/usr/sbin/nft", "/sbin/nft"].map(PathBuf::from);
        if let Some(program) = installed.into_iter().find(|program| program.is_file()) {
            return Some(Self { program, libraries: None });
        }
        let program = rivals?.join("usr/sbin/nft");
        let folder = rivals?.join(LIBRARIES);
        let folders: Vec<String> = std::fs::read_dir(&folder)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .chain([folder.clone()])
            .map(|path| path.display().to_string())
            .collect();
        program.is_file().then(|| Self { program, libraries: Some(folders.join(":")) })
    }

    /// Makes `rules` the rules of a namespace, and the only ones.
    pub(crate) fn load(&self, namespace: &Namespace, rules: &str) -> Result<()> {
        let mut command: Command = namespace.command("env");
        if let Some(libraries) = &self.libraries {
            command.arg(format!("LD_LIBRARY_PATH={libraries}"));
        }
        let text = format!("flush ruleset\n{rules}");
        run(command.arg(&self.program).args(["-f", "-"]), text.as_bytes())?
            .success()
            .context("nft does not take the rules")
            .map(drop)
    }
}

/// Drops what comes from one of these networks.
pub(crate) fn deny(networks: &[String]) -> String {
    rules(
        &format!(
            "set denied {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {} }} }}\n",
            networks.join(", ")
        ),
        "tcp dport { 443, 10943 } ip saddr @denied drop",
    )
}

/// Drops SYNs of sources that send more than the guard's configuration allows.
pub(crate) fn meter() -> String {
    rules(
        "set sources { type ipv4_addr; size 65535; flags dynamic; timeout 1m; }\n",
        "tcp dport { 443, 10943 } tcp flags & (syn | ack) == syn update @sources { ip saddr limit rate over 1/second burst \
         1 packets } drop",
    )
}

fn rules(set: &str, rule: &str) -> String {
    format!(
        "table ip guard {{\n{set}chain raw {{\ntype filter hook prerouting priority raw; policy accept;\n{rule}\n}}\n}}\n"
    )
}
