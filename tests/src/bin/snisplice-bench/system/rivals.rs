//! The other proxies, each set up as its documentation says for passing TLS through by server name.
//!
//! Each has as many threads or workers as our daemon, no access log, and no limit that a scenario would reach.

use std::path::{Path as FilePath, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use harness::command;
use harness::netns::Namespace;
use harness::workdir::WorkDir;

use super::{Kind, Places, Rival, find, workers};
use crate::network::{FRONT_PORT, Path, Service};

/// Connections that each rival may have at once.
const CONNECTIONS: usize = 9_500;

/// Where packages put shared libraries.
const LIBRARIES: [&str; 2] = ["usr/lib", "lib"];

pub(super) fn version(kind: Kind, places: &Places) -> Result<String> {
    let (program, flag) = match kind {
        Kind::HaProxy { .. } => ("haproxy", "-v"),
        Kind::Nginx => ("nginx", "-v"),
        _ => ("sniproxy", "-V"),
    };
    if kind == Kind::Nginx {
        stream_module(places)?;
    }
    let answer = command::run(program_of(places, program)?.arg(flag), &[])?;
    let text = if answer.stdout.trim().is_empty() { answer.stderr } else { answer.stdout };
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

pub(super) fn start(kind: Kind, edge: &Namespace, path: &Path, places: &Places) -> Result<Rival> {
    let work = WorkDir::create()?;
    let command = match kind {
        Kind::HaProxy { splice } => {
            let file = work.write("haproxy.cfg", haproxy(path, splice, workers()?))?;
            let mut command = program_of(places, "haproxy")?;
            command.arg("-db").arg("-f").arg(file);
            command
        }
        Kind::Nginx => {
            let module = stream_module(places)?;
            let file = work.write("nginx.conf", nginx(path, &module, &work.file("nginx"), workers()?))?;
            let mut command = program_of(places, "nginx")?;
            command.arg("-e").arg("stderr").arg("-c").arg(file);
            command
        }
        Kind::SniProxy => {
            let file = work.write("sniproxy.conf", sniproxy(path))?;
            let mut command = program_of(places, "sniproxy")?;
            command.arg("-f").arg("-c").arg(file);
            command
        }
        Kind::Direct | Kind::Ours(_) => bail!("no rival"),
    };
    Rival::spawn(edge, work, &command)
}

/// A program with the libraries that were unpacked with it.
fn program_of(places: &Places, program: &str) -> Result<Command> {
    let mut command = Command::new(find(places, program)?);
    if let Some(root) = &places.rivals {
        let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
        let folders = LIBRARIES.map(|folder| root.join(folder).join(&multiarch));
        command
            .env("LD_LIBRARY_PATH", std::env::join_paths(folders).context("a library folder with a colon")?);
    }
    Ok(command)
}

/// nginx's stream module: a file of its own in Debian's packages.
fn stream_module(places: &Places) -> Result<PathBuf> {
    let file = "usr/lib/nginx/modules/ngx_stream_module.so";
    let roots = places.rivals.iter().cloned().chain([PathBuf::from("/")]);
    roots.map(|root| root.join(file)).find(|file| file.is_file()).context("nginx has no stream module")
}

/// HAProxy, "TCP mode with SNI" of its configuration manual (req_ssl_sni, inspect-delay).
fn haproxy(path: &Path, splice: bool, threads: usize) -> String {
    // A spliced connection holds pipes, whose descriptors count as well.
    let pipes = if splice { "    maxpipes 200\n" } else { "" };
    let option = if splice { "    option splice-auto\n" } else { "" };
    let mut text = format!(
        "global\n    nbthread {threads}\n    maxconn {CONNECTIONS}\n{pipes}\n\
         defaults\n    mode tcp\n    maxconn {CONNECTIONS}\n    timeout connect 5s\n    timeout client 1h\n    \
         timeout server 1h\n{option}\n\
         frontend front\n    bind 0.0.0.0:{FRONT_PORT} backlog 8192\n    tcp-request inspect-delay 5s\n    \
         tcp-request content accept if {{ req_ssl_hello_type 1 }}\n"
    );
    for service in Service::ALL {
        let (word, name) = (service.word(), service.name());
        text += &format!("    use_backend {word} if {{ req_ssl_sni -i {name} }}\n");
    }
    for service in Service::ALL {
        let (word, server) = (service.word(), path.upstream(service));
        text += &format!("\nbackend {word}\n    server one {server}\n");
    }
    text
}

/// nginx, the example of ngx_stream_ssl_preread_module. `reuseport` gives each worker a queue of its own.
fn nginx(path: &Path, module: &FilePath, files: &FilePath, workers: usize) -> String {
    let mut text = format!(
        "load_module {};\nuser root;\nworker_processes {workers};\nworker_rlimit_nofile 20000;\ndaemon off;\n\
         pid {}.pid;\nerror_log stderr error;\nevents {{ worker_connections 19900; }}\nstream {{\n    \
         map $ssl_preread_server_name $chosen {{\n",
        module.display(),
        files.display()
    );
    for service in Service::ALL {
        text += &format!("        {} {};\n", service.name(), service.word());
    }
    text += "    }\n";
    for service in Service::ALL {
        text += &format!("    upstream {} {{ server {}; }}\n", service.word(), path.upstream(service));
    }
    text += &format!(
        "    server {{\n        listen 0.0.0.0:{FRONT_PORT} reuseport backlog=8192;\n        ssl_preread on;\n        \
         proxy_pass $chosen;\n        proxy_half_close on;\n        proxy_timeout 1h;\n        \
         proxy_connect_timeout 5s;\n    }}\n}}\n"
    );
    text
}

/// sniproxy has one thread; that is its design.
fn sniproxy(path: &Path) -> String {
    let mut text = format!(
        "user root\nlistener 0.0.0.0:{FRONT_PORT} {{\n    proto tls\n    table names\n}}\ntable names {{\n"
    );
    for service in Service::ALL {
        text += &format!("    {} {}\n", service.name(), path.upstream(service));
    }
    text + "}\n"
}
