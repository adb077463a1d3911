//! Looks with the usual limit.

use proxy_common::hello::{MaxHello, Verdict};

pub const MAX_HANDSHAKE: usize = MaxHello::DEFAULT.body();
pub const MAX_PEEK: usize = MaxHello::DEFAULT.peek();

pub fn inspect(bytes: &[u8]) -> Verdict {
    proxy_common::hello::inspect(bytes, MaxHello::DEFAULT)
}
