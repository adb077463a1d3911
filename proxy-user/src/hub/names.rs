//! The names of servers: answers that are still good, and look-ups that are under way. Each name is looked up by one at a time,
//! however many connections wait for it. Who looks up is `front::resolver`.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use super::server::Server;
use super::snapshot::Upstream;

/// Answers that are in use are compared with the system's files so often at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Addresses, at least one, best first; or why there are none.
pub(crate) type Answer = Result<Arc<[IpAddr]>, NameError>;

/// Why a name has no address.
#[derive(Debug, Clone)]
pub(crate) struct NameError {
    pub(crate) kind: io::ErrorKind,
    pub(crate) text: Arc<str>,
}

impl From<NameError> for io::Error {
    fn from(error: NameError) -> Self {
        Self::new(error.kind, &*error.text)
    }
}

/// A look-up that is to be done.
pub(crate) struct Lookup {
    pub(crate) host: Arc<str>,
    /// An upstream with this name.
    pub(crate) upstream: Arc<str>,
    done: watch::Sender<Option<Found>>,
    /// As of when the system's files are that it goes by. None: it waits to be begun.
    generation: Option<u64>,
}

/// What a look-up has brought.
#[derive(Debug, Clone)]
enum Found {
    Answer(Answer),
    /// An answer by files of the system that have changed since.
    Stale,
}

/// All names of the configurations that the daemon has had, and no others.
pub(crate) struct Names {
    started: Instant,
    all: Mutex<HashMap<Arc<str>, Arc<Name>>>,
    wanted: mpsc::UnboundedSender<Lookup>,
    queue: Mutex<Option<mpsc::UnboundedReceiver<Lookup>>>,
    /// Changes of the system's files so far. Only the thread that looks up changes it.
    generation: AtomicU64,
    /// When the files were last to be looked at, in milliseconds since the start.
    looked: AtomicU64,
    look: Notify,
}

struct Name {
    upstream: Arc<str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Good until then.
    known: Option<(Answer, Instant)>,
    under_way: Option<watch::Receiver<Option<Found>>>,
    /// It has begun, by the files as they were then.
    has_begun: bool,
}

impl Names {
    pub(crate) fn new(upstreams: &[Arc<Upstream>]) -> Self {
        // Not more can be in it than there are names.
        let (wanted, queue) = mpsc::unbounded_channel();
        let names = Self {
            started: Instant::now(),
            all: Mutex::default(),
            wanted,
            queue: Mutex::new(Some(queue)),
            generation: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            look: Notify::new(),
        };
        names.add(upstreams);
        names
    }

    /// Knows the names of another configuration, too. None is forgotten: connections may have the configuration before it.
    pub(crate) fn add(&self, upstreams: &[Arc<Upstream>]) {
        let mut all = self.all();
        for upstream in upstreams {
            for server in upstream.servers() {
                let Server::Name { host, .. } = server else { continue };
                let name = || Name { upstream: Arc::clone(&upstream.name), state: Mutex::default() };
                all.entry(Arc::from(host.as_str())).or_insert_with(|| Arc::new(name()));
            }
        }
    }

    /// Whether a server has a name.
    pub(crate) fn are_there(&self) -> bool {
        !self.all().is_empty()
    }

    /// The look-ups that are to be done. None: somebody does them already.
    pub(crate) fn take_queue(&self) -> Option<mpsc::UnboundedReceiver<Lookup>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The addresses of a name of the configuration. Waits for a look-up if there is no answer that is still good.
    pub(crate) async fn find(&self, host: &str) -> io::Result<Arc<[IpAddr]>> {
        let known = self.all().get_key_value(host).map(|(host, name)| (Arc::clone(host), Arc::clone(name)));
        let (host, name) = known.ok_or(io::ErrorKind::NotFound)?;
        loop {
            let mut under_way = match self.begin(&host, &name) {
                Ok(answer) => return Ok(answer?),
                Err(under_way) => under_way,
            };
            match under_way.wait_for(Option::is_some).await.ok().and_then(|found| found.clone()) {
                Some(Found::Answer(answer)) => return Ok(answer?),
                Some(Found::Stale) => {}
                None => return Err(io::Error::other("nobody looks names up: the daemon stops")),
            }
        }
    }

    /// The answer, or what will be it.
    fn begin(&self, host: &Arc<str>, name: &Name) -> Result<Answer, watch::Receiver<Option<Found>>> {
        let mut state = name.state();
        if let Some((answer, _)) = state.known.as_ref().filter(|(_, until)| Instant::now() < *until) {
            let answer = answer.clone();
            drop(state);
            self.ask_to_look();
            return Ok(answer);
        }
        // Err: whoever did it has given up.
        if let Some(under_way) = state.under_way.as_ref().filter(|under_way| under_way.has_changed().is_ok())
        {
            return Err(under_way.clone());
        }
        let (done, under_way) = watch::channel(None);
        (state.under_way, state.has_begun) = (Some(under_way.clone()), false);
        // If nobody takes it, `done` is dropped, and whoever waits is told.
        let lookup =
            Lookup { host: Arc::clone(host), upstream: Arc::clone(&name.upstream), done, generation: None };
        let _ = self.wanted.send(lookup);
        Err(under_way)
    }

    /// A look-up begins, by the system's files as they are now.
    pub(crate) fn begun(&self, lookup: &mut Lookup) {
        lookup.generation = Some(self.generation.load(Ordering::Relaxed));
        let name = self.all().get(&lookup.host).cloned();
        if let Some(name) = name {
            name.state().has_begun = true;
        }
    }

    /// Notes the answer of a look-up, which is kept for `good_for`. If the system's files have changed since the look-up began, the
    /// answer is dropped, and its waiters look up again.
    pub(crate) fn answer(&self, lookup: &Lookup, answer: Answer, good_for: Duration) {
        if lookup.generation != Some(self.generation.load(Ordering::Relaxed)) {
            lookup.done.send_replace(Some(Found::Stale));
            return;
        }
        let name = self.all().get(&lookup.host).cloned();
        if let Some(name) = name {
            let mut state = name.state();
            state.known = Some((answer.clone(), Instant::now() + good_for));
            state.under_way = None;
        }
        lookup.done.send_replace(Some(Found::Answer(answer)));
    }

    /// The system's files have changed: what is known is not good any more, nor is what look-ups bring that have begun.
    pub(crate) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        for name in self.all().values() {
            let mut state = name.state();
            state.known = None;
            if state.has_begun {
                (state.under_way, state.has_begun) = (None, false);
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Name>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask_to_look(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let before = self.looked.load(Ordering::Relaxed);
        let is_due = u128::from(now.saturating_sub(before)) >= LOOK_EVERY.as_millis();
        if is_due && self.looked.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.look.notify_one();
        }
    }

    /// Returns when it is time to look whether the system's files have changed.
    pub(crate) async fn time_to_look(&self) {
        self.look.notified().await;
    }
}

impl Name {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proxy_common::plan::Choice;

    use super::*;
    use crate::hub::UpstreamRegistry;

    const LONG: Duration = Duration::from_secs(60);

    fn names(hosts: &[&str]) -> Arc<Names> {
        let name: Arc<str> = "web".into();
        let registry = UpstreamRegistry::default();
        let endpoint =
            |host: &&str| registry.endpoint(&name, Server::Name { host: (*host).to_owned(), port: 443 });
        let upstream = Upstream {
            endpoints: hosts.iter().map(endpoint).collect(),
            name: Arc::clone(&name),
            datapath: Choice::Auto,
            hold: Duration::ZERO,
        };
        Arc::new(Names::new(&[Arc::new(upstream)]))
    }

    fn address(last: u8) -> Arc<[IpAddr]> {
        Arc::from([IpAddr::from(Ipv4Addr::new(10, 0, 0, last))])
    }

    /// The next look-up, begun.
    async fn next(names: &Names, queue: &mut mpsc::UnboundedReceiver<Lookup>) -> Lookup {
        let mut lookup = queue.recv().await.unwrap();
        names.begun(&mut lookup);
        lookup
    }

    fn find(names: &Arc<Names>, host: &'static str) -> tokio::task::JoinHandle<io::Result<Arc<[IpAddr]>>> {
        let names = Arc::clone(names);
        tokio::spawn(async move { names.find(host).await })
    }

    #[tokio::test]
    async fn many_wait_for_one_look_up_of_each_name() {
        let names = names(&["a.test", "b.test"]);
        let mut queue = names.take_queue().unwrap();
        let waiting: Vec<_> = (0..100).map(|_| find(&names, "a.test")).collect();
        let other = find(&names, "b.test");
        let (first, second) = (next(&names, &mut queue).await, next(&names, &mut queue).await);
        assert_eq!([&*first.host, &*second.host], ["a.test", "b.test"]);
        assert!(queue.try_recv().is_err(), "one for each name");
        names.answer(&first, Ok(address(1)), LONG);
        for one in waiting {
            assert_eq!(one.await.unwrap().unwrap()[..], address(1)[..]);
        }
        names.answer(&second, Err(NameError { kind: io::ErrorKind::NotFound, text: "none".into() }), LONG);
        assert_eq!(other.await.unwrap().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(names.find("a.test").await.is_ok() && names.find("b.test").await.is_err());
        assert!(queue.try_recv().is_err(), "both are known");
        assert_eq!(names.find("c.test").await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Connections that were accepted before may still need them.
    #[tokio::test]
    async fn names_of_the_configuration_before_are_known_on() {
        let names = names(&["a.test"]);
        let mut queue = names.take_queue().unwrap();
        names.add(&[]);
        let waiting = find(&names, "a.test");
        names.answer(&next(&names, &mut queue).await, Ok(address(1)), LONG);
        assert!(waiting.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn an_answer_is_good_for_its_time_or_until_it_is_forgotten() {
        let names = names(&["a.test"]);
        let mut queue = names.take_queue().unwrap();
        for good_for in [Duration::ZERO, LONG, LONG] {
            let waiting = find(&names, "a.test");
            names.answer(&next(&names, &mut queue).await, Ok(address(1)), good_for);
            assert!(waiting.await.unwrap().is_ok());
            if !good_for.is_zero() {
                assert!(names.find("a.test").await.is_ok());
                names.forget();
            }
        }
    }

    #[tokio::test]
    async fn a_look_up_that_is_given_up_is_an_error_and_the_next_one_begins_again() {
        let names = names(&["a.test"]);
        let mut queue = names.take_queue().unwrap();
        let waiting = find(&names, "a.test");
        drop(queue.recv().await.unwrap());
        assert!(waiting.await.unwrap().is_err());
        let waiting = find(&names, "a.test");
        names.answer(&next(&names, &mut queue).await, Ok(address(1)), LONG);
        assert!(waiting.await.unwrap().is_ok());
        names.forget();
        drop(queue);
        assert!(names.find("a.test").await.is_err(), "nobody looks up");
    }

    /// The first name server does not answer; then another one is written into the file.
    #[tokio::test]
    async fn what_a_look_up_brings_that_began_before_the_files_changed_does_not_count() {
        let names = names(&["a.test"]);
        let mut queue = names.take_queue().unwrap();
        let early = find(&names, "a.test");
        let old = next(&names, &mut queue).await;
        names.forget();
        let late = find(&names, "a.test");
        let new = next(&names, &mut queue).await;
        names.answer(&old, Ok(address(1)), LONG);
        // Who waited for it waits for the other one now.
        tokio::task::yield_now().await;
        assert!(queue.try_recv().is_err() && !early.is_finished() && !late.is_finished());
        names.answer(&new, Ok(address(2)), LONG);
        for one in [early, late] {
            assert_eq!(one.await.unwrap().unwrap()[..], address(2)[..]);
        }
        assert_eq!(names.find("a.test").await.unwrap()[..], address(2)[..]);
    }

    #[tokio::test]
    async fn a_look_up_that_is_not_begun_when_the_files_change_goes_by_the_new_ones() {
        let names = names(&["a.test"]);
        let mut queue = names.take_queue().unwrap();
        let waiting = find(&names, "a.test");
        tokio::task::yield_now().await;
        names.forget();
        let lookup = next(&names, &mut queue).await;
        assert!(queue.try_recv().is_err(), "one is enough");
        names.answer(&lookup, Ok(address(1)), LONG);
        assert!(waiting.await.unwrap().is_ok() && names.find("a.test").await.is_ok());
    }
}
