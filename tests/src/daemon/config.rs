//! The daemon's configuration file, made by a test.

use std::env;
use std::fmt::Display;
use std::path::Path;

use crate::pins::Pins;

/// The TCP port of the admin interface in the edge's namespace.
pub const ADMIN_PORT: u16 = 10944;

/// How the bytes of a flow travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datapath {
    /// The best that the host can do.
    Auto,
    /// Without sockets: packets are translated.
    Packet,
    /// In the kernel, past the loopback connection of a server on the daemon's host.
    Local,
    /// In the kernel.
    Sockmap,
    /// Through the daemon.
    Copy,
}

impl Datapath {
    /// The word of the configuration.
    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Packet => "packet",
            Self::Local => "local",
            Self::Sockmap => "sockmap",
            Self::Copy => "copy",
        }
    }

    /// The datapath of all tests that are not about one: `SNISPLICE_TEST_DATAPATH`, else auto.
    fn of_environment() -> String {
        env::var("SNISPLICE_TEST_DATAPATH").unwrap_or_else(|_| Self::Auto.word().to_owned())
    }
}

/// A configuration in the making; each method adds one thing, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Config {
    text: String,
    upstreams: Vec<(String, String)>,
    datapath: Option<String>,
    hold: Option<String>,
    timeouts: String,
    limits: String,
    admin: String,
    guard: String,
    packet: Option<String>,
    packet_lines: String,
    age: Option<String>,
    admin_port: Option<u16>,
}

impl Config {
    /// Nothing but the admin interface.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a listener that routes by name.
    #[must_use]
    pub fn listen(mut self, name: &str, address: &str) -> Self {
        self.text += &format!("[[listen]]\nname = \"{name}\"\naddress = [\"{address}\"]\n\n");
        self
    }

    /// Adds a listener whose connections all go to one upstream.
    #[must_use]
    pub fn listen_to(mut self, name: &str, address: &str, upstream: &str) -> Self {
        self.text +=
            &format!("[[listen]]\nname = \"{name}\"\naddress = [\"{address}\"]\nto = \"{upstream}\"\n\n");
        self
    }

    /// Adds a route for a name or pattern.
    #[must_use]
    pub fn route(mut self, name: &str, sni: &str, upstream: &str) -> Self {
        self.text += &format!("[[route]]\nname = \"{name}\"\nsni = [\"{sni}\"]\nto = \"{upstream}\"\n\n");
        self
    }

    /// Adds the route for all that no other route takes.
    #[must_use]
    pub fn default_route(mut self, name: &str, upstream: &str) -> Self {
        self.text += &format!("[[route]]\nname = \"{name}\"\ndefault = true\nto = \"{upstream}\"\n\n");
        self
    }

    /// Adds an upstream with one server.
    #[must_use]
    pub fn upstream(mut self, name: &str, server: impl Display) -> Self {
        self.upstreams.push((name.to_owned(), server.to_string()));
        self
    }

    /// Sets the datapath of all upstreams, whatever the environment says.
    #[must_use]
    pub fn datapath(self, datapath: Datapath) -> Self {
        self.datapath_word(datapath.word())
    }

    /// Like [`Config::datapath`], by the word of the configuration: the daemon decides if there is such a datapath.
    #[must_use]
    pub fn datapath_word(self, word: &str) -> Self {
        Self { datapath: Some(word.to_owned()), ..self }
    }

    /// Sets how long all upstreams hold a connection that no server accepts.
    #[must_use]
    pub fn hold(self, duration: &str) -> Self {
        Self { hold: Some(duration.to_owned()), ..self }
    }

    /// Sets one of the timeouts.
    #[must_use]
    pub fn timeout(mut self, name: &str, duration: &str) -> Self {
        self.timeouts += &format!("{name} = \"{duration}\"\n");
        self
    }

    /// Sets the budget of memory for TCP.
    #[must_use]
    pub fn tcp_memory(self, size: &str) -> Self {
        self.limit(&format!("tcp_memory = \"{size}\""))
    }

    /// Sets how many connections a source may have.
    #[must_use]
    pub fn source_connections(self, count: usize) -> Self {
        self.limit(&format!("source_connections = {count}"))
    }

    /// Sets how long a hello may be.
    #[must_use]
    pub fn hello_size(self, size: &str) -> Self {
        self.limit(&format!("hello_size = \"{size}\""))
    }

    fn limit(mut self, line: &str) -> Self {
        self.limits += &format!("{line}\n");
        self
    }

    /// Adds a line to what is said of the admin interface.
    #[must_use]
    pub fn admin_line(mut self, line: &str) -> Self {
        self.admin += &format!("{line}\n");
        self
    }

    /// Adds a guard of one interface, with further lines of its section.
    #[must_use]
    pub fn guard(self, interface: &str, lines: &str) -> Self {
        self.guards(&[interface], lines)
    }

    /// The same of several interfaces.
    #[must_use]
    pub fn guards(self, interfaces: &[&str], lines: &str) -> Self {
        Self { guard: format!("[guard]\ninterfaces = {interfaces:?}\n{lines}\n"), ..self }
    }

    /// Says where flows without sockets are kept, and how old flows are when they leave theirs.
    #[must_use]
    pub fn packet(self, pins: &Pins, after: &str) -> Self {
        self.packet_at(&pins.path(), &pins.journal(), after)
    }

    /// The same, in this folder of a BPF file system.
    #[must_use]
    pub fn packet_at(self, path: &Path, journal: &Path, after: &str) -> Self {
        let text = format!(
            "[packet]\nafter = \"{after}\"\npins = \"{}\"\njournal = \"{}\"\n\n",
            path.display(),
            journal.display()
        );
        Self { packet: Some(text), ..self }
    }

    /// Another admin port, for a second daemon in the same namespace.
    #[must_use]
    pub fn admin_port(self, port: u16) -> Self {
        Self { admin_port: Some(port), ..self }
    }

    /// Says how old flows are when they leave their sockets, where they are kept being left to the start of the daemon.
    #[must_use]
    pub fn leaving(self, after: &str) -> Self {
        Self { age: Some(after.to_owned()), ..self }
    }

    /// The same, with pins for one daemon.
    pub(super) fn with_pins(&self, pins: &Pins) -> Self {
        self.clone().packet(pins, self.age.as_deref().unwrap_or("0s"))
    }

    /// Adds a line to what is said of flows without sockets.
    #[must_use]
    pub fn packet_line(mut self, line: &str) -> Self {
        self.packet_lines += &format!("{line}\n");
        self
    }

    /// Whether flows leave their sockets, and it is not said yet where they are kept then.
    pub(super) fn lacks_pins(&self) -> bool {
        self.packet.is_none() && self.word() == Datapath::Packet.word()
    }

    fn word(&self) -> String {
        self.datapath.clone().unwrap_or_else(Datapath::of_environment)
    }

    /// The file's text.
    pub fn render(&self, admin_socket: &Path) -> String {
        let datapath = self.word();
        let mut text = self.text.clone();
        for (name, server) in &self.upstreams {
            text += &format!("[[upstream]]\nname = \"{name}\"\nservers = [\"{server}\"]\n");
            text += &format!("datapath = \"{datapath}\"\n");
            if let Some(hold) = &self.hold {
                text += &format!("hold = \"{hold}\"\n");
            }
            text.push('\n');
        }
        if !self.timeouts.is_empty() {
            text += &format!("[timeouts]\n{}\n", self.timeouts);
        }
        if !self.limits.is_empty() {
            text += &format!("[limits]\n{}\n", self.limits);
        }
        text += &self.guard;
        if let Some(packet) = &self.packet {
            text += packet;
            text += &format!("{}\n", self.packet_lines);
        }
        let socket = admin_socket.display();
        let port = self.admin_port.unwrap_or(ADMIN_PORT);
        text + &format!("[admin]\nsocket = \"{socket}\"\nhttp = \"127.0.0.1:{port}\"\n{}", self.admin)
    }
}
