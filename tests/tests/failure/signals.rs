//! Signals that others send by mistake, such as logrotate: the daemon lives on.

use anyhow::Result;
use harness::daemon::Datapath;
use harness::peers::raw::transfer;
use harness::site::{RawSite, config};

#[test]
fn a_signal_that_means_nothing_ends_nothing_and_is_logged_once() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Copy))?;
    let (mut client, mut server) = site.flow()?;
    let highest = libc::SIGRTMAX() - libc::SIGRTMIN();
    let signals = [
        (libc::SIGUSR1, "SIGUSR1".to_owned()),
        (libc::SIGUSR2, "SIGUSR2".to_owned()),
        (libc::SIGALRM, "SIGALRM".to_owned()),
        (libc::SIGVTALRM, "SIGVTALRM".to_owned()),
        (libc::SIGPROF, "SIGPROF".to_owned()),
        (libc::SIGIO, "SIGIO".to_owned()),
        (libc::SIGPWR, "SIGPWR".to_owned()),
        (libc::SIGSTKFLT, "SIGSTKFLT".to_owned()),
        (libc::SIGXCPU, "SIGXCPU".to_owned()),
        (libc::SIGXFSZ, "SIGXFSZ".to_owned()),
        (libc::SIGHUP, "SIGHUP".to_owned()),
        (libc::SIGRTMIN(), "SIGRTMIN+0".to_owned()),
        (libc::SIGRTMAX(), format!("SIGRTMIN+{highest}")),
    ];
    let sender = format!("process {} (", std::process::id());
    for (signal, name) in &signals {
        site.daemon.signal(*signal)?;
        let line = site.daemon.wait_for_log(name)?;
        assert!(line.contains(&sender) || *name == "SIGHUP", "{line}");
        transfer(&mut client, &mut server, 1, 1000)?;
        transfer(&mut server, &mut client, 2, 1000)?;
    }
    // The same ones again say nothing for a while.
    for (signal, _) in &signals {
        site.daemon.signal(*signal)?;
    }
    for signal in [libc::SIGPIPE, libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT] {
        site.daemon.signal(signal)?;
        transfer(&mut client, &mut server, 3, 1000)?;
    }
    let lines = site.daemon.log().iter().filter(|line| line.contains("SIGUSR2")).count();
    assert_eq!(lines, 1);
    drop((client, server));
    site.daemon.stop()
}
