//! Flows that have left their sockets, and have got new ones.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::accept::Desk;
use crate::datapath::packet::Returned;
use crate::datapath::{Carriers, Outcome};
use crate::hub::Permit;

/// Takes in what comes back to this worker.
pub(super) async fn welcome(mut returned: UnboundedReceiver<Returned>, desk: Arc<Desk>) {
    while let Some(one) = returned.recv().await {
        let carriers = Arc::clone(&desk.carriers);
        // It has its sockets here, wherever there are fewer connections.
        let seat = desk.exchange.seat(desk.worker).at(desk.worker);
        tokio::spawn(async move {
            let permit = go_on(one, &carriers).await;
            drop((seat, permit));
        });
    }
}

/// Gives back the place of the connection once it is over.
async fn go_on(Returned { flow, mut record, sockets, permit }: Returned, carriers: &Carriers) -> Permit {
    let hub = &carriers.hub;
    let entry = hub.flows.enter_again(flow);
    match carriers.go_on(&entry.flow, sockets).await {
        Outcome::Ended(carried) => record.settle(hub, &entry.flow, carried.end, carried.bytes),
        Outcome::Left(departed) => departed.park(hub, entry, record),
    }
    permit
}
