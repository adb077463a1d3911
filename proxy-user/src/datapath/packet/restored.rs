//! A connection that has sockets again: a worker goes on with it.

use std::net::TcpStream;

use proxy_common::plan::Datapath;
use tokio::net::TcpStream as Stream;

use crate::datapath::{Carriers, Outcome, Pair, internal};
use crate::hub::Flow;

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
