//! From the listening socket to an established pair: one worker for each core, each with a runtime of its own, so that
//! a connection stays where the kernel put it.

mod accept;
mod conn;
mod connect;
mod listeners;
mod own_addresses;
mod peek;
mod refuse;
mod resolver;
mod worker;

pub(crate) use self::listeners::{BindError, ListenerSet, Sockets};
pub(crate) use self::own_addresses::follow_own_addresses;
pub(crate) use self::resolver::start as start_resolver;
pub(crate) use self::worker::{WorkerInputs, start as start_worker};
