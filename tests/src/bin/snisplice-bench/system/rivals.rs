//! The other proxies, each set up as its documentation says for passing TLS through by server name.
//!
//! Each has as many threads or workers as our daemon, no access log, and no limit that a scenario would reach.

use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use harness::command;
use harness::netns::Namespace;
use harness::workdir::WorkDir;

use super::{Kind, Places, Rival, find, workers};
use crate::network::{FRONT_PORT, Path, Service};

/// Connections that each rival may have at once: two descriptors each.
const CONNECTIONS: usize = 9_500;

/// Bytes of a buffer or pipe in the variants with large ones; the default of buffers is 16 KiB.
const LARGE: usize = 128 * 1024;

/// Where packages put shared libraries.
const LIBRARIES: [&str; 2] = ["usr/lib", "lib"];

/// HAProxy's manual: tcp-request inspect-delay, req_ssl_hello_type, req_ssl_sni. A spliced connection holds pipes, whose
/// descriptors count as well.
const HAPROXY: &str = "\
global
    nbthread WORKERS
    maxconn CONNECTIONS
    maxpipes 200
GLOBAL
defaults
    mode tcp
    maxconn CONNECTIONS
    timeout connect 5s
    timeout client 1h
    timeout server 1h
DEFAULTS
frontend front
    bind 0.0.0.0:PORT backlog 8192
    tcp-request inspect-delay 5s
    tcp-request content accept if { req_ssl_hello_type 1 }
    use_backend NAME if { req_ssl_sni -i SNI }

backend NAME
    server one SERVER
";

/// The example of ngx_stream_ssl_preread_module; `reuseport` gives each worker a queue of its own.
const NGINX: &str = "\
load_module MODULE;
user root;
worker_processes WORKERS;
worker_rlimit_nofile 20000;
daemon off;
pid FILES.pid;
error_log stderr error;
events { worker_connections 19900; }
stream {
    map $ssl_preread_server_name $chosen {
        SNI NAME;
    }
    upstream NAME { server SERVER; }
    server {
        listen 0.0.0.0:PORT reuseport backlog=8192;
        ssl_preread on;
        proxy_pass $chosen;
        proxy_half_close on;
        proxy_timeout 1h;
        proxy_connect_timeout 5s;
OPTIONS
    }
}
";

/// It has one thread; that is its design.
const SNIPROXY: &str = "\
user root
listener 0.0.0.0:PORT {
    proto tls
    table names
}
table names {
    SNI SERVER
}
";

pub(super) fn version(kind: Kind, places: &Places) -> Result<String> {
    let (program, flag) = match kind {
        Kind::HaProxy { .. } => ("haproxy", "-v"),
        Kind::Nginx { .. } => ("nginx", "-v"),
        _ => ("sniproxy", "-V"),
    };
    if program == "nginx" {
        stream_module(places)?;
    }
    let answer = command::run(program_of(places, program)?.arg(flag), &[])?;
    let text = if answer.stdout.trim().is_empty() { answer.stderr } else { answer.stdout };
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

pub(super) fn start(kind: Kind, edge: &Namespace, path: &Path, places: &Places) -> Result<Rival> {
    let work = WorkDir::create()?;
    let (program, arguments, template) = match kind {
        Kind::HaProxy { large, splice } => ("haproxy", ["-db", "-f"].as_slice(), haproxy(large, splice)),
        Kind::Nginx { large } => {
            let text = nginx(large, &stream_module(places)?, &work.file("nginx"));
            ("nginx", ["-e", "stderr", "-c"].as_slice(), text)
        }
        Kind::SniProxy => ("sniproxy", ["-f", "-c"].as_slice(), SNIPROXY.to_owned()),
        Kind::Direct | Kind::Ours(_) => bail!("no rival"),
    };
    let text = fill(&template, workers()?, |service| path.upstream(service));
    let file = work.write("configuration", &text)?;
    Rival::spawn(edge, work, program_of(places, program)?.args(arguments).arg(file), text)
}

fn haproxy(large: bool, splice: bool) -> String {
    let mut global = String::new();
    if large {
        global += &format!("    tune.bufsize {LARGE}\n");
    }
    if splice {
        global += &format!("    tune.pipesize {LARGE}\n");
    }
    let defaults = if splice { "    option splice-request\n    option splice-response\n" } else { "" };
    HAPROXY.replace("GLOBAL\n", &global).replace("DEFAULTS\n", defaults)
}

fn nginx(large: bool, module: &FilePath, files: &FilePath) -> String {
    let options = if large { format!("        proxy_buffer_size {LARGE};\n") } else { String::new() };
    let text = NGINX.replace("MODULE", &module.display().to_string());
    text.replace("FILES", &files.display().to_string()).replace("OPTIONS\n", &options)
}

/// Repeats each line with NAME or SNI for each service, and the last paragraph if it begins with `backend`.
fn fill(template: &str, workers: usize, upstream: impl Fn(Service) -> SocketAddr) -> String {
    let for_each_service = |text: &str| {
        let one = |service: Service| {
            let text = text.replace("SNI", &service.name()).replace("NAME", service.word());
            text.replace("SERVER", &upstream(service).to_string()) + "\n"
        };
        Service::ALL.into_iter().map(one).collect::<String>()
    };
    let is_service = |line: &str| line.contains("NAME") || line.contains("SNI");
    let at = template.find("backend NAME\n").unwrap_or(template.len());
    let (lines, paragraph) = template.split_at(at);
    let line = |line: &str| if is_service(line) { for_each_service(line) } else { format!("{line}\n") };
    let mut text: String = lines.lines().map(line).collect();
    if !paragraph.is_empty() {
        text += &for_each_service(paragraph);
    }
    let text = text.replace("PORT", &FRONT_PORT.to_string()).replace("WORKERS", &workers.to_string());
    text.replace("CONNECTIONS", &CONNECTIONS.to_string())
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

/// nginx's stream module: a file of its own in Debian's packages. It has to be of the same build as the program.
fn stream_module(places: &Places) -> Result<PathBuf> {
    let file = "usr/lib/nginx/modules/ngx_stream_module.so";
    let unpacked = places.rivals.iter().filter(|root| root.join("usr/sbin/nginx").is_file()).cloned();
    let module = unpacked.chain([PathBuf::from("/")]).map(|root| root.join(file)).find(|file| file.is_file());
    module.context("nginx has no stream module")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str) -> String {
        fill(template, 7, |service| SocketAddr::from(([10, 2, 0, 2], service.port())))
    }

    #[test]
    fn every_service_has_its_lines_and_no_word_of_a_template_is_left() {
        let nginx = nginx(true, FilePath::new("/m.so"), FilePath::new("/f"));
        for text in
            [haproxy(false, false), haproxy(true, true), nginx, SNIPROXY.to_owned()].map(|text| filled(&text))
        {
            for service in Service::ALL {
                assert!(text.contains(&service.name()), "{text}");
                assert!(text.contains(&format!("10.2.0.2:{}", service.port())), "{text}");
            }
            for word in [
                "PORT",
                "WORKERS",
                "CONNECTIONS",
                "GLOBAL",
                "DEFAULTS",
                "OPTIONS",
                "MODULE",
                "FILES",
                "NAME",
                "SERVER",
            ] {
                assert!(!text.contains(word), "{word} in\n{text}");
            }
        }
    }

    #[test]
    fn variants_differ_in_what_they_are_named_for() {
        assert!(!haproxy(false, false).contains("tune.") && !haproxy(false, false).contains("splice"));
        assert!(haproxy(true, false).contains("tune.bufsize 131072"));
        assert!(haproxy(true, true).contains("option splice-response"));
        assert!(filled(&haproxy(false, false)).contains("backend echo\n    server one 10.2.0.2:7001\n"));
        assert!(
            nginx(true, FilePath::new("/m"), FilePath::new("/f")).contains("proxy_buffer_size 131072;\n")
        );
        assert!(!nginx(false, FilePath::new("/m"), FilePath::new("/f")).contains("proxy_buffer_size"));
    }
}
