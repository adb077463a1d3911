//! The command line: what operators read before they start the daemon.

use anyhow::Result;
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
    let full = std::fs::File::options().write(true).open("/dev/full")?;
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
