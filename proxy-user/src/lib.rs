//! snisplice: several TLS services behind one port, told apart by the server name of the client's hello, and joined in
//! the kernel. TLS is never terminated.

mod cli;
mod control;
mod daemon;
mod datapath;
mod front;
mod hub;
mod kernel;
mod sys;

pub use cli::main;
