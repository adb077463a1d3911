//! The command line: what operators read before they start the daemon.

use std::fs::{File, Metadata};
use std::os::linux::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use harness::command::{Finished, run, snisplice};
use harness::daemon::cli;
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{Topology, edge, send_signal};
use harness::site::{POLLING_NAME, RawSite, WEB_NAME, config};
use harness::workdir::WorkDir;

const BAD: &str = r#"[[listen]]
name = "tls"
address = ["[::]:443", "not an address"]

[[route]]
name = "polling"
sni = ["polling.example.com"]
to = "nowhere"
colour = "red"

[[upstream]]
name = "web"
servers = []
"#;

fn snisplice_with(arguments: &[&str], stdin: &str) -> Result<Finished> {
    run(&mut cli(arguments)?, stdin.as_bytes())
}

/// A configuration file of the site.
fn site_file(work: &WorkDir) -> Result<String> {
    let path = work.write("site.toml", config().render(&work.file("admin.sock")))?;
    Ok(path.display().to_string())
}

#[test]
fn check_names_the_place_of_every_error() -> Result<()> {
    let work = WorkDir::create()?;
    let file = work.write("bad.toml", BAD)?.display().to_string();
    let checked = snisplice_with(&["check", "--config", &file], "")?;
    assert_eq!(checked.code, Some(78), "{checked:?}");
    let text = checked.stdout.clone() + &checked.stderr;
    // The address, the unknown upstream, the unknown key, the empty list.
    for line in ["3", "8", "9", "13"] {
        assert!(text.contains(&format!("{file}:{line}:")), "no error for line {line} in:\n{text}");
    }
    assert!(text.contains("nowhere") && text.contains("colour"), "{text}");
    Ok(())
}

#[test]
fn check_accepts_a_good_file_and_the_default() -> Result<()> {
    let work = WorkDir::create()?;
    snisplice_with(&["check", "--config", &site_file(&work)?], "")?.success()?;
    let default = snisplice_with(&["config", "default"], "")?.success()?;
    assert!(default.contains("[[route]]"), "{default}");
    let file = work.write("default.toml", &default)?.display().to_string();
    snisplice_with(&["check", "--config", &file], "")?.success()?;
    Ok(())
}

#[test]
fn a_missing_or_broken_file_is_a_configuration_error() -> Result<()> {
    let work = WorkDir::create()?;
    let broken = work.write("broken.toml", "[[listen]\n")?.display().to_string();
    let missing = work.file("missing.toml").display().to_string();
    for (file, word) in [(&broken, ":1:"), (&missing, "missing.toml")] {
        for verb in ["check", "run"] {
            let ended = snisplice_with(&[verb, "--config", file], "")?;
            assert_eq!(ended.code, Some(78), "{verb} {file}: {ended:?}");
            assert!((ended.stdout + &ended.stderr).contains(word), "{verb} {file}");
        }
    }
    Ok(())
}

/// What `check --json` says, which is JSON whatever is wrong, and nothing else.
fn checked_json(arguments: &[&str], stdin: &str, code: i32) -> Result<serde_json::Value> {
    let ended = snisplice_with(&[&["check", "--json"], arguments].concat(), stdin)?;
    assert_eq!(ended.code, Some(code), "{ended:?}");
    serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))
}

#[test]
fn check_reads_standard_input() -> Result<()> {
    let work = WorkDir::create()?;
    let good = std::fs::read_to_string(site_file(&work)?)?;
    let said = snisplice_with(&["check", "--config", "-"], &good)?.success()?;
    assert_eq!(said, "standard input: ok\n");
    let ended = snisplice_with(&["check", "--config", "-"], BAD)?;
    assert_eq!(ended.code, Some(78));
    assert!(ended.stderr.contains("stdin:3:24: \"not an address\""), "{ended:?}");
    let answer = checked_json(&["--config", "-"], "frontend x\n", 78)?;
    assert_eq!(
        answer["errors"],
        serde_json::json!([{
            "file": "stdin", "line": 1, "column": 1,
            "message": "this is not TOML: 'frontend x' looks like HAProxy; write it as TOML, as 'snisplice config default' \
                        prints it",
        }])
    );
    Ok(())
}

#[test]
fn what_is_no_file_is_refused_and_not_waited_for() -> Result<()> {
    let work = WorkDir::create()?;
    let pipe = work.file("pipe").display().to_string();
    run(std::process::Command::new("mkfifo").arg(&pipe), b"")?.success()?;
    let deny = |file: &str| -> Result<String> {
        let text =
            config().guard("lo", &format!("deny_file = \"{file}\"\n")).render(&work.file("admin.sock"));
        Ok(work.write("deny.toml", text)?.display().to_string())
    };
    let (by_pipe, by_device) = (deny(&pipe)?, work.file("deny.toml").display().to_string());
    for verb in ["check", "run", "route"] {
        for file in [&pipe, "/dev/zero", "/"] {
            let ended = snisplice_with(&[verb, "--config", file], "")?;
            assert_eq!(ended.code, Some(78), "{verb} {file}: {ended:?}");
            assert!(ended.stderr.contains(&format!("{file}: it is a ")), "{verb} {file}: {ended:?}");
        }
    }
    let ended = snisplice_with(&["check", "--config", &by_pipe], "")?;
    assert!(ended.code == Some(78) && ended.stderr.contains("it is a named pipe"), "{ended:?}");
    deny("/dev/zero")?;
    let ended = snisplice_with(&["check", "--config", &by_device], "")?;
    assert!(ended.code == Some(78) && ended.stderr.contains("it is a device"), "{ended:?}");
    Ok(())
}

#[test]
fn every_failure_with_json_is_json() -> Result<()> {
    let work = WorkDir::create()?;
    let missing = work.file("missing.toml").display().to_string();
    let answer = checked_json(&["--config", &missing], "", 78)?;
    assert_eq!(
        (answer["ok"].as_bool(), answer["errors"][0]["file"].as_str()),
        (Some(false), Some(&*missing))
    );
    // A list of networks with a mistake in its second line.
    let list = work.write("deny.txt", "10.0.0.0/8\n 10.0.0.1/8\n")?.display().to_string();
    let text = config().guard("lo", &format!("deny_file = \"{list}\"\n")).render(&work.file("admin.sock"));
    let answer = checked_json(&["--config", "-"], &text, 78)?;
    let error = &answer["errors"][0];
    assert_eq!(
        (error["file"].as_str(), error["line"].as_u64(), error["column"].as_u64()),
        (Some(&*list), Some(2), Some(2))
    );
    let absent = work.file("absent.sock").display().to_string();
    let ask = ["--json", "--socket", &absent];
    for (arguments, code) in [
        (vec!["check", "--json", "--no-such-flag"], 64),
        (vec!["route", "--json", "--config", &missing], 78),
        (vec!["route", "--json", "--listener", "nonsense"], 64),
        ([&["status"][..], &ask].concat(), 69),
        ([&["flows"][..], &ask].concat(), 69),
        ([&["kill", "1"][..], &ask].concat(), 69),
        ([&["guard", "list"][..], &ask].concat(), 69),
        ([&["guard", "ban", "10.0.0.1/8"][..], &ask].concat(), 64),
    ] {
        let ended = snisplice_with(&arguments, "")?;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        let answer: serde_json::Value =
            serde_json::from_str(&ended.stdout).with_context(|| format!("{arguments:?}: {ended:?}"))?;
        assert_eq!(
            (answer["ok"].as_bool(), answer["exit"].as_i64()),
            (Some(false), Some(code.into())),
            "{answer}"
        );
        assert!(answer["errors"][0]["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    }
    Ok(())
}

#[test]
fn warnings_are_labelled_and_change_no_exit_code() -> Result<()> {
    let work = WorkDir::create()?;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let port: u16 = range.split_whitespace().next().context("no range")?.parse()?;
    let text = config().guard("absent0", "").timeout("idle", "20s").render(&work.file("admin.sock"))
        + &format!("[packet]\nports = \"{port}-{port}\"\n");
    let text = text.replace("servers = [\"", "servers = [\"192.0.2.1:1\", \"192.0.2.1:1\", \"");
    let text = text.replace("sni = [\"", "source = [\"10.0.0.5/8\"]\nsni = [\"*\", \"");
    let ended = snisplice_with(&["check", "--config", "-"], &text)?;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    for what in [
        "this host has no interface \"absent0\"",
        "'idle' of \"20s\" also ends polling connections",
        &format!("on this host the kernel gives ports of {port}-{port} to other connections"),
        "the server \"192.0.2.1:1\" is already in this",
        "\"10.0.0.5/8\" has bits set",
        "\"*\" takes only names of one label",
    ] {
        let found = lines
            .iter()
            .any(|line| line.starts_with("stdin:") && line.contains(&format!(": warning: {what}")));
        assert!(found, "no warning: {what}\nin:\n{}", ended.stderr);
    }
    assert!(lines.iter().all(|line| line.contains(": warning: ")), "{}", ended.stderr);
    let answer = checked_json(&["--config", "-"], &text, 0)?;
    assert_eq!(answer["warnings"].as_array().map(Vec::len), Some(lines.len()), "{answer}");
    Ok(())
}

#[test]
fn route_tells_where_a_name_goes() -> Result<()> {
    let work = WorkDir::create()?;
    let file = site_file(&work)?;
    for (name, route, upstream) in
        [(POLLING_NAME, "polling", "octopus-polling"), (WEB_NAME, "web", "octopus-web")]
    {
        let text = snisplice_with(&["route", "--sni", name, "--config", &file], "")?.success()?;
        assert!(text.contains(route) && text.contains(upstream), "{text}");
        let json = snisplice_with(&["route", "--sni", name, "--config", &file, "--json"], "")?.success()?;
        let answer: serde_json::Value = serde_json::from_str(&json)?;
        assert_eq!(
            (answer["route"].as_str(), answer["upstream"].as_str()),
            (Some(route), Some(upstream)),
            "{json}"
        );
    }
    Ok(())
}

#[test]
fn a_taken_address_is_named() -> Result<()> {
    let net = Topology::create()?;
    let work = WorkDir::create()?;
    let file = site_file(&work)?;
    let _taken = net.edge.listen(edge(443))?;
    let mut command = net.edge.command(snisplice()?);
    let ended = run(command.args(["run", "--config", &file]), b"")?;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stderr.contains("[::]:443"), "{}", ended.stderr);
    assert!(!work.file("admin.sock").exists(), "the admin socket is left");
    Ok(())
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() -> Result<()> {
    let net = Topology::create()?;
    let work = WorkDir::create()?;
    let file = site_file(&work)?;
    let full = File::options().write(true).open("/dev/full")?;
    let mut command = net.edge.command(snisplice()?);
    let mut daemon = command.args(["run", "--config", &file]).stderr(full).spawn()?;
    let socket = work.file("admin.sock").display().to_string();
    let answers = wait_for("the daemon to answer", PATIENCE, || {
        snisplice_with(&["status", "--socket", &socket], "").ok().filter(|ended| ended.code == Some(0))
    });
    send_signal(daemon.id(), libc::SIGTERM)?;
    let ended = wait_for("the daemon to end", PATIENCE, || daemon.try_wait().transpose())??;
    answers?;
    assert_eq!(ended.code(), Some(0));
    Ok(())
}

#[test]
fn a_file_in_the_place_of_the_admin_socket_is_left_alone() -> Result<()> {
    let net = Topology::create()?;
    let work = WorkDir::create()?;
    let file = site_file(&work)?;
    work.write("admin.sock", "precious")?;
    let mut command = net.edge.command(snisplice()?);
    let ended = run(command.args(["run", "--config", &file]), b"")?;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stderr.contains("admin.sock") && ended.stderr.contains("no socket"), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(work.file("admin.sock"))?, "precious");
    Ok(())
}

/// systemd names the journal by device and inode of stderr, and reads a priority before each line.
#[test]
fn lines_for_the_journal_begin_with_their_priority() -> Result<()> {
    let net = Topology::create()?;
    let work = WorkDir::create()?;
    let text = config().timeout("idle", "20s").render(&work.file("admin.sock"));
    let file = work.write("site.toml", text)?.display().to_string();
    work.write("admin.sock", "precious")?;
    let log = work.file("log");
    let run = |stream: &dyn Fn(&Metadata) -> String| -> Result<String> {
        let stderr = File::create(&log)?;
        let mut command = net.edge.command(snisplice()?);
        command.args(["run", "--config", &file]).env("JOURNAL_STREAM", stream(&stderr.metadata()?));
        assert_eq!(command.stderr(stderr).status()?.code(), Some(69));
        Ok(std::fs::read_to_string(&log)?)
    };
    let journal = run(&|found| format!("{}:{}", found.st_dev(), found.st_ino()))?;
    let line = |what: &str| journal.lines().find(|line| line.contains(what)).context(what.to_owned());
    assert!(line("'idle' of")?.starts_with("<4>"), "{journal}");
    assert!(line("configuration loaded")?.starts_with("<6>"), "{journal}");
    assert!(line("no socket")?.starts_with("<3>error: "), "{journal}");
    let other = run(&|found| format!("{}:{}", found.st_dev(), found.st_ino() + 1))?;
    assert!(!other.lines().any(|line| line.starts_with('<')), "{other}");
    Ok(())
}

#[test]
fn status_and_flows_ask_the_running_daemon() -> Result<()> {
    let site = RawSite::start(&config())?;
    let flow = site.flow()?;
    let client = flow.0.local_addr()?.to_string();
    site.daemon.wait_for_flow("the flow to be carried", |flow| flow.datapath.is_some())?;
    let socket = site.daemon.admin_socket().display().to_string();
    let ask = |verb: &str, json: bool| {
        let arguments = [&[verb, "--socket", &socket][..], if json { &["--json"] } else { &[] }].concat();
        snisplice_with(&arguments, "")?.success()
    };
    assert!(ask("flows", false)?.contains(&client));
    let flows: serde_json::Value = serde_json::from_str(&ask("flows", true)?)?;
    assert_eq!(flows["flows"][0]["client"].as_str(), Some(client.as_str()), "{flows}");
    assert!(ask("status", false)?.contains("running"));
    let status: serde_json::Value = serde_json::from_str(&ask("status", true)?)?;
    assert_eq!(status["connections"]["active"].as_u64(), Some(1), "{status}");
    drop(flow);
    site.daemon.stop()?;
    let ended = snisplice_with(&["status", "--socket", &socket], "")?;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stderr.contains(&socket), "{}", ended.stderr);
    Ok(())
}

#[test]
fn unknown_words_are_usage_errors() -> Result<()> {
    for arguments in [&["run", "--no-such-flag"][..], &["no-such-verb"], &[]] {
        let ended = snisplice_with(arguments, "")?;
        assert_eq!(ended.code, Some(64), "{arguments:?}: {ended:?}");
    }
    assert!(snisplice_with(&["--help"], "")?.success()?.contains("run"));
    assert!(snisplice_with(&["--version"], "")?.success()?.contains("snisplice"));
    Ok(())
}
