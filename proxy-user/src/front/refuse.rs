//! Closing a connection that goes nowhere.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

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
