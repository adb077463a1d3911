//! Clients whose way takes larger packets than that to the server (jumbo frames here, a tunnel there) would send segments that
//! nobody could pass on. What a client may send it is told when its connection begins, before its server is known: so a
//! listener learns by the first flow that has to keep its sockets for that, and tells less to those that come after.

use std::collections::HashMap;

use tokio::sync::watch;

/// Less than this is not learnt: a way that takes no more than IPv6 asks for at least (RFC 8200) is a rare one, or somebody
/// pretends that there is one, and all clients of the listener would have to do with it.
const LEAST: u32 = 1280 - 60;

/// The largest segment that the clients of each listener are to send.
pub(crate) struct Clamp(watch::Sender<HashMap<String, u32>>);

impl Default for Clamp {
    fn default() -> Self {
        Self(watch::channel(HashMap::new()).0)
    }
}

/// What one listening socket is to know of it.
pub(crate) struct Clamped {
    listener: String,
    seen: Option<u32>,
    all: watch::Receiver<HashMap<String, u32>>,
}

impl Clamp {
    /// The clients of `listener` are to send segments of so many bytes at most.
    pub(super) fn learn(&self, listener: &str, most: u32) {
        let learnt = most >= LEAST
            && self.0.send_if_modified(|all| {
                let known = all.entry(listener.to_owned()).or_insert(u32::MAX);
                let is_less = most < *known;
                *known = most.min(*known);
                is_less
            });
        if learnt {
            tracing::info!(listener, most, "clients are told to send smaller segments from now on");
        }
    }

    /// For one listening socket.
    pub(crate) fn of(&self, listener: &str) -> Clamped {
        Clamped { listener: listener.to_owned(), seen: None, all: self.0.subscribe() }
    }
}

impl Clamped {
    /// Returns when there is news: the largest segment. What is given up before is not lost.
    pub(crate) async fn news(&mut self) -> u32 {
        loop {
            let known = self.all.borrow_and_update().get(&self.listener).copied();
            if let Some(most) = known
                && self.seen != known
            {
                self.seen = known;
                return most;
            }
            if self.all.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future as _;

    #[tokio::test]
    async fn a_listener_hears_of_less_and_never_of_more_or_too_little() {
        let clamp = Clamp::default();
        let mut own = clamp.of("a");
        clamp.learn("b", 1400);
        clamp.learn("a", LEAST - 1);
        assert!(!has_news(&mut own).await);
        clamp.learn("a", 1440);
        assert_eq!(own.news().await, 1440);
        clamp.learn("a", 1460);
        assert!(!has_news(&mut own).await);
        clamp.learn("a", 1300);
        assert_eq!((own.news().await, clamp.of("a").news().await), (1300, 1300));
    }

    async fn has_news(own: &mut Clamped) -> bool {
        let mut news = std::pin::pin!(own.news());
        std::future::poll_fn(|context| std::task::Poll::Ready(news.as_mut().poll(context).is_ready())).await
    }
}
