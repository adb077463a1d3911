//! Closing a connection that goes nowhere.

use std::time::Duration;

use proxy_common::flow::Reason;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::hub::{AccessRecord, Flow, Hub};
use crate::sys;

/// A fatal `unrecognized_name` alert in a TLS record (RFC 8446 section 6, RFC 6066 section 3). Version 3.3 is
/// understood by every client since TLS 1.0.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// How long the client may take to close after the alert.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells a TLS client that its server name is unknown here, and closes.
///
/// Closing a socket with unread bytes resets the connection, and the reset can overtake the alert: so the hello is read and
/// thrown away first, and the client gets a moment to close.
pub(super) async fn unrecognized_name(mut stream: TcpStream) {
    let farewell = async {
        stream.write_all(&UNRECOGNIZED_NAME).await?;
        stream.shutdown().await?;
        let mut scrap = [0; 2048];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut scrap) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, farewell).await;
}

/// Refuses what one of our own connections to a server has come to, before anything is spent on it: it would come back again
/// and again, until no slot is left.
pub(super) fn our_own(
    stream: &TcpStream,
    flow: &Flow,
    hub: &Hub,
    record: &mut AccessRecord,
) -> Result<(), Reason> {
    let mut address = None;
    let listener = || {
        // A connection that is reset already has no address, and goes nowhere.
        address = stream.local_addr().ok();
        address
    };
    let redirected = |listener| sys::original_destination(stream, listener);
    let (Some(origin), Some(address)) = (hub.dialing.find(flow.client, listener, redirected), address) else {
        return Ok(());
    };
    let origin = hub.flows.find(origin);
    let facts = origin.as_ref().map(|origin| origin.facts().clone());
    let (route, upstream) = facts.map(|facts| (facts.route, facts.upstream)).unwrap_or_default();
    let upstream = upstream.unwrap_or_default();
    if hub.dialing.throttle.is_due() {
        tracing::warn!(
            %route, %upstream, listener = %flow.listener, %address,
            "a connection to a server of this upstream came back to a listener of this daemon and was refused. Write the address of \
             the service itself in servers, or move the listener"
        );
    }
    let error = format!("the connection of route \"{route}\" to upstream \"{upstream}\" came back here");
    record.error = Some(error.into());
    let _ = sys::reset_on_close(stream, true);
    Err(Reason::Loop)
}
