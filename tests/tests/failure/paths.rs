//! Paths of the configuration where others have put something: nothing hangs, and what others may change is said.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use harness::command::run;
use harness::daemon::{Config, Datapath, Launch, cli};
use harness::netns::Topology;
use harness::pins::Pins;
use harness::site::config;
use harness::workdir::WorkDir;
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn make_fifo(path: &Path) -> Result<()> {
    Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
}

/// The exit code of `snisplice check`, and all that it says.
fn check(work: &WorkDir, config: &Config) -> Result<(Option<i32>, String)> {
    let file = work.write("checked.toml", config.render(&work.file("admin.sock")))?;
    let ended = run(cli(&["check", "--config"])?.arg(file), b"")?;
    Ok((ended.code, ended.stdout + &ended.stderr))
}

#[test]
fn a_journal_that_is_no_file_is_refused_at_the_start() -> Result<()> {
    let (net, pins, work) = (Topology::create()?, Pins::create()?, WorkDir::create()?);
    let config = config().datapath(Datapath::Packet).packet(&pins, "0s");
    let refused = |what: &str| -> Result<()> {
        let failed = Launch::new()?.start(&net.edge, &config).err().context("it has started")?;
        let said = format!("{failed:#}");
        ensure!(said.contains("exit status: 78") && said.contains(what), "{said}");
        let (code, said) = check(&work, &config)?;
        ensure!(code == Some(78) && said.contains(what), "{code:?}: {said}");
        Ok(())
    };
    make_fifo(&pins.journal())?;
    refused("a named pipe (FIFO)")?;
    std::fs::remove_file(pins.journal())?;
    symlink("/dev/zero", pins.journal())?;
    refused("a symbolic link")
}

#[test]
fn a_deny_file_that_is_a_fifo_is_refused() -> Result<()> {
    let work = WorkDir::create()?;
    let fifo = work.file("deny");
    make_fifo(&fifo)?;
    let config = config().guard("lo", &format!("deny_file = \"{}\"", fifo.display()));
    let (code, said) = check(&work, &config)?;
    assert!(code == Some(78) && said.contains("a named pipe (FIFO)"), "{code:?}: {said}");
    Ok(())
}

#[test]
fn folders_that_everybody_may_write_to_are_warned_of() -> Result<()> {
    let (net, work) = (Topology::create()?, WorkDir::create()?);
    let folder = work.write("file", "")?.parent().context("a folder")?.to_owned();
    let (code, said) = check(&work, &config())?;
    ensure!(code == Some(0) && !said.contains("may write"), "{said}");
    set_permissions(&folder, Permissions::from_mode(0o777))?;
    let (code, said) = check(&work, &config())?;
    let warning = format!("may write to the folder {} (mode 0777)", folder.display());
    ensure!(code == Some(0) && said.contains(&warning), "{code:?}: {said}");
    // A start says so too, whatever else is wrong.
    let taken = net.edge.listen(harness::netns::edge(443))?;
    let mut command = net.edge.command(harness::command::snisplice()?);
    let ended = run(command.args(["run", "--config"]).arg(work.file("checked.toml")), b"")?;
    drop(taken);
    ensure!(ended.stderr.contains(&warning), "{}", ended.stderr);
    Ok(())
}
