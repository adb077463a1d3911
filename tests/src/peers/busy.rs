//! A connection that is busy for as long as a test does something beside it.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow};

use super::raw::transfer;

/// So many bytes are checked before the next ones are sent.
const PIECE: u64 = 8 << 20;

/// Does `work` while bytes go both ways, for as long as it takes. Returns how many bytes have arrived each way at least.
///
/// # Errors
/// What `work` reports, or that a byte is missing or differs.
pub fn while_busy(flow: &(TcpStream, TcpStream), work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let is_over = AtomicBool::new(false);
    let (client, server) = flow;
    thread::scope(|scope| {
        let directions = [(client, server, 2), (server, client, 3)].map(|(from, to, stream)| {
            let is_over = &is_over;
            scope.spawn(move || transfer_until(is_over, from, to, stream))
        });
        let done = {
            let _over = SetOnDrop(&is_over);
            work()
        };
        let mut least = u64::MAX;
        for direction in directions {
            let bytes = direction.join().map_err(|_| anyhow!("an end panicked"))?;
            least = least.min(bytes.with_context(|| format!("{done:?}"))?);
        }
        done.map(|()| least)
    })
}

/// Sends one piece after the other until it is over, at least one. Returns how many bytes have arrived.
fn transfer_until(is_over: &AtomicBool, from: &TcpStream, to: &TcpStream, stream: u64) -> Result<u64> {
    let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
    let mut bytes = 0;
    loop {
        transfer(&mut from, &mut to, stream, PIECE)?;
        bytes += PIECE;
        if is_over.load(Ordering::Relaxed) {
            return Ok(bytes);
        }
    }
}

/// Says so even if the work panics, since its threads are waited for.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
