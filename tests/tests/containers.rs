//! In containers: what works with which privileges, what is said of the rest, and what to add. docs/containers.md has it as a table.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use harness::command::{Finished, run, snisplice};
use harness::daemon::{Daemon, Datapath, Launch};
use harness::netns::{Namespace, Topology};
use harness::peers::raw::transfer;
use harness::pins::Pins;
use harness::site::{RawSite, config};
use harness::wire::Guard;
use harness::workdir::WorkDir;

/// The capabilities that `docker run` gives a process, and no others.
const DEFAULT: &str = "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
                       +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// The same with `--cap-add BPF --cap-add NET_ADMIN --cap-add PERFMON`.
const ADDED: &str = "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
                     +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap,+bpf,+net_admin,+perfmon";

/// The same as podman gives it: without CAP_NET_RAW.
const WITHOUT_RAW: &str = "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
                           +sys_chroot,+setfcap,+bpf,+net_admin,+perfmon";

/// What the messages say is to be added.
const TO_ADD: &str = "--cap-add BPF --cap-add NET_ADMIN --cap-add PERFMON";

/// Refuses bpf(2), as the default profile of Docker does without the capability, and older ones with it.
const SECCOMP: [&str; 2] = [env!("CARGO_BIN_EXE_snisplice-refused"), "bpf"];

fn doctor(namespace: &Namespace, wrapper: &[&str], pins: &Path) -> Result<Finished> {
    let (program, arguments) = wrapper.split_first().context("no wrapper")?;
    let mut command = namespace.command(program);
    run(command.args(arguments).arg(snisplice()?).args(["doctor", "--json", "--pins"]).arg(pins), b"")
}

/// What doctor says of one thing: level, what was found, and the remedy.
fn finding(finished: &Finished, check: &str) -> Result<(String, String)> {
    let report: serde_json::Value =
        serde_json::from_str(&finished.stdout).with_context(|| format!("{finished:?}"))?;
    let findings = report.get("findings").and_then(serde_json::Value::as_array).context("no findings")?;
    let word = |one: &serde_json::Value, name: &str| {
        one.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let found =
        findings.iter().find(|one| word(one, "check") == check).with_context(|| format!("no {check}"))?;
    Ok((word(found, "level"), found.to_string()))
}

/// Nothing can be had but copying, and `words` are in the log and in what doctor says.
fn copies(wrapper: &[&'static str], words: &[&str]) -> Result<()> {
    let pins = Pins::create()?;
    let config = config().datapath(Datapath::Auto).packet(&pins, "0s").guard("client", "");
    let site = RawSite::launch(&config, &Launch::new()?.under(wrapper))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 100_000)?;
    transfer(&mut server, &mut client, 2, 100_000)?;
    let status = site.daemon.status()?.datapaths;
    let guard = site.daemon.wait_for_log("no guard")?;
    for reason in [status.packet.reason, status.sockmap.reason, Some(guard)] {
        let reason = reason.context("no reason")?;
        ensure!(words.iter().all(|word| reason.contains(word)), "{reason}");
    }
    drop((client, server));
    let report = doctor(&site.net.client, wrapper, &pins.path())?;
    for check in ["datapath packet", "datapath sockmap", "guard"] {
        let (level, said) = finding(&report, check)?;
        ensure!(level == "warning" && words.iter().all(|word| said.contains(word)), "{said}");
    }
    site.daemon.stop()
}

/// All of it: connections are spliced and offloaded, restored, and the guard is there.
fn does_all(daemon: &Daemon, site: (&Topology, &harness::peers::raw::RawListener)) -> Result<()> {
    let (net, listener) = site;
    assert_eq!(Guard::attached(daemon, "client")?, "native");
    ensure!(daemon.status()?.datapaths.sockmap.available, "{:?}", daemon.status()?.datapaths);
    let mut client = net.client.connect(harness::netns::edge(10_943))?;
    let mut server = listener.accept()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    daemon.wait_for_flow("an offloaded connection", |flow| flow.datapath.as_deref() == Some("packet"))?;
    transfer(&mut client, &mut server, 2, 1_000_000)?;
    transfer(&mut server, &mut client, 3, 1_000_000)?;
    daemon.order("restore", &[daemon.id_of(client.local_addr()?)?])?;
    transfer(&mut client, &mut server, 4, 1_000_000)?;
    transfer(&mut server, &mut client, 5, 1_000_000)
}

#[test]
fn with_the_capabilities_that_docker_gives_connections_are_copied() -> Result<()> {
    copies(&["setpriv", DEFAULT], &["CAP_BPF", TO_ADD])
}

#[test]
fn a_seccomp_profile_that_refuses_bpf_is_named() -> Result<()> {
    copies(&SECCOMP, &["seccomp", "--security-opt"])
}

/// Rootless podman: root, and all capabilities, of a user namespace only.
#[test]
fn a_user_namespace_is_named() -> Result<()> {
    let net = Topology::create()?;
    let pins = Pins::create()?;
    let wrapper = ["unshare", "--user", "--map-root-user"];
    let report = doctor(&net.edge, &wrapper, &pins.path())?;
    for check in ["CAP_BPF", "CAP_PERFMON", "datapath packet", "datapath sockmap", "guard"] {
        let (level, said) = finding(&report, check)?;
        ensure!(level == "warning" && said.contains("user namespace") && said.contains("rootless"), "{said}");
    }
    // The network namespace is the host's: its ports are, too.
    let (level, said) = finding(&report, "listen on 443")?;
    ensure!(level == "error" && said.contains("net.ipv4.ip_unprivileged_port_start"), "{said}");
    ensure!(report.code == Some(69), "{report:?}");
    let work = WorkDir::create()?;
    let file = work.write("snisplice.toml", config().render(&work.file("admin.sock")))?;
    let mut command = net.edge.command(wrapper[0]);
    let daemon =
        run(command.args(&wrapper[1..]).arg(snisplice()?).args(["run", "--config"]).arg(&file), b"")?;
    ensure!(daemon.code == Some(77), "{daemon:?}");
    ensure!(daemon.stderr.contains("net.ipv4.ip_unprivileged_port_start"), "{daemon:?}");
    // Once that is set it serves, and copies.
    net.edge.enter(|| Ok(fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "443")?))?;
    let site =
        RawSite::launch_in(net, &config(), &Launch::new()?.under(&["unshare", "--user", "--map-root-user"]))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 100_000)?;
    let reason = site.daemon.status()?.datapaths.sockmap.reason.context("no reason")?;
    ensure!(reason.contains("user namespace"), "{reason}");
    drop((client, server));
    site.daemon.stop()
}

/// What can be written in a container that is started with `--read-only --tmpfs /run`, beside the folders of the tests. The limit on locked
/// memory is as small as it was by default before Linux 5.11, which does not matter any more.
const READ_ONLY: &str = "mount -t tmpfs -o mode=755 none /run && mount --rbind /tmp /tmp && mount --bind /proc/sys /proc/sys && \
    for place in / /sys /proc/sys; do mount -o remount,bind,ro $place || exit 1; done; ! touch /etc/x 2>/dev/null && ulimit -l 0 && exec \"$@\"";

#[test]
fn with_three_more_capabilities_and_a_bpf_file_system_all_works() -> Result<()> {
    let (net, pins) = (Topology::create()?, Pins::create()?);
    let listener = harness::peers::raw::RawListener::bind(&net.backend, harness::netns::backend(10_943))?;
    let config = config().datapath(Datapath::Packet).packet(&pins, "0s").guard("client", "");
    let launch = Launch::new()?.under(&["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", "setpriv", ADDED]);
    let daemon = launch.start(&net.edge, &config)?;
    does_all(&daemon, (&net, &listener))?;
    daemon.stop()
}

/// A network namespace of its own, with a macvlan interface on the host's: as `docker network create --driver macvlan` makes it.
#[test]
fn so_it_does_in_a_network_namespace_of_its_own_with_macvlan() -> Result<()> {
    let (net, pins) = (Topology::create()?, Pins::create()?);
    let container = net.more("container")?;
    for (interface, address) in [("client", "10.1.0.1"), ("backend", "10.2.0.1")] {
        net.edge.ip_batch(&format!(
            "address flush dev {interface}\nlink add m-{interface} link {interface} type macvlan mode bridge\n\
             link set m-{interface} netns {}\n",
            container.name()
        ))?;
        container.ip_batch(&format!(
            "link set m-{interface} name {interface}\nlink set {interface} up\naddress add {address}/24 dev {interface}\n"
        ))?;
    }
    let listener = harness::peers::raw::RawListener::bind(&net.backend, harness::netns::backend(10_943))?;
    // A macvlan has no XDP of its own driver.
    let config = config().datapath(Datapath::Packet).packet(&pins, "0s").guard("client", "");
    let daemon = Launch::new()?.under(&["setpriv", ADDED]).start(&container, &config)?;
    assert_eq!(Guard::attached(&daemon, "client")?, "generic");
    let mut client = net.client.connect(harness::netns::edge(10_943))?;
    let mut server = listener.accept()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    daemon.wait_for_flow("an offloaded connection", |flow| flow.datapath.as_deref() == Some("packet"))?;
    transfer(&mut client, &mut server, 2, 1_000_000)?;
    transfer(&mut server, &mut client, 3, 1_000_000)?;
    drop((client, server));
    daemon.stop()
}

/// Connections are spliced, not offloaded, and the guard is there.
#[test]
fn what_keeps_connections_from_being_offloaded_names_the_option() -> Result<()> {
    let (work, bpf) = (WorkDir::create()?, Pins::create()?);
    let cases = [
        (ADDED, work.file("pins"), "-v /sys/fs/bpf:/sys/fs/bpf"),
        (WITHOUT_RAW, bpf.path(), "--cap-add NET_RAW"),
    ];
    for (capabilities, pins, option) in cases {
        let config = config()
            .datapath(Datapath::Auto)
            .packet_at(&pins, &work.file("journal"), "0s")
            .guard("client", "");
        let site = RawSite::launch(&config, &Launch::new()?.under(&["setpriv", capabilities]))?;
        assert_eq!(Guard::attached(&site.daemon, "client")?, "native");
        let status = site.daemon.status()?.datapaths;
        ensure!(status.sockmap.available && !status.packet.available, "{status:?}");
        let reason = status.packet.reason.context("no reason")?;
        ensure!(reason.contains(option), "{reason}");
        let report = doctor(&site.net.client, &["setpriv", capabilities], &pins)?;
        let (_, said) = finding(&report, "datapath packet")?;
        ensure!(said.contains(option), "{said}");
        site.daemon.stop()?;
    }
    Ok(())
}

/// `docker run --read-only`: the daemon needs a place for its socket and its journal, and nothing else.
#[test]
fn a_root_file_system_that_cannot_be_written_needs_a_place_for_the_socket() -> Result<()> {
    let net = Topology::create()?;
    let work = WorkDir::create()?;
    let file = work.write("snisplice.toml", config().render(Path::new("/run/snisplice/admin.sock")))?;
    let mut command = net.edge.command("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs -o ro,mode=755 none /run && exec \"$@\"", "sh"]);
    let refused = run(command.arg(snisplice()?).args(["run", "--config"]).arg(&file), b"")?;
    ensure!(refused.code == Some(69) && refused.stderr.contains("--tmpfs /run"), "{refused:?}");
    Ok(())
}
