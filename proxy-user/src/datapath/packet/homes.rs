//! Flows that have got sockets again go to a worker, each to the next one.

use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proxy_common::plan::Datapath;
use tokio::net::TcpStream as Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::datapath::{Carriers, Outcome, Pair, internal};
use crate::hub::{AccessRecord, Flow, Permit};

/// A flow with new sockets, the client's first. They are armed to reset.
pub(crate) struct Returned {
    pub(crate) flow: Arc<Flow>,
    pub(crate) record: AccessRecord,
    pub(crate) sockets: [TcpStream; 2],
    pub(crate) permit: Permit,
}

/// The workers.
#[derive(Default)]
pub(crate) struct Homes {
    doors: Mutex<Vec<UnboundedSender<Returned>>>,
    next: AtomicUsize,
}

impl Homes {
    /// Err: there is no worker any more. The sockets are closed, and the story is given back.
    pub(super) fn send(&self, returned: Returned) -> Result<(), Box<AccessRecord>> {
        let doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(door) = doors.get(turn % doors.len().max(1)) else { return Err(Box::new(returned.record)) };
        door.send(returned).map_err(|error| Box::new(error.0.record))
    }

    /// Where a worker gets flows that come back.
    pub(crate) fn home(&self) -> UnboundedReceiver<Returned> {
        let (door, receiver) = unbounded_channel();
        self.doors.lock().unwrap_or_else(PoisonError::into_inner).push(door);
        receiver
    }
}

impl Carriers {
    /// Goes on with a flow that has come back.
    pub(crate) async fn go_on(&self, flow: &Flow, sockets: [TcpStream; 2]) -> Outcome {
        let [client, upstream] = sockets.map(Stream::from_std);
        match (client, upstream) {
            (Ok(client), Ok(upstream)) => {
                // What ends it is no new datapath: the record tells by which one it was carried.
                let carried = if flow.closing.get().is_some() { Datapath::Packet } else { Datapath::Copy };
                let pair = Pair { client, upstream };
                match &self.packet {
                    Some(datapath) => self.until_it_leaves(datapath, flow, pair, carried).await,
                    // An earlier daemon had offloaded it, which this one is not to do.
                    None => self.copy_to_the_end(flow, &pair, carried).await,
                }
            }
            (Err(error), _) | (_, Err(error)) => Outcome::Ended(internal(flow, flow.copied(), &error)),
        }
    }
}
