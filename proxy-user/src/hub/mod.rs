//! What the front and the control plane share: the configuration, the live flows, the meters and the phase. They meet
//! nowhere else.

mod access_record;
mod config_store;
mod connection_limit;
mod dialed;
mod flow;
mod flows;
mod log_throttle;
mod meters;
mod names;
mod orders;
mod panics;
mod phase;
mod server;
pub(crate) mod snapshot;
mod source_limiter;
mod sources;
mod upstreams;
mod workers;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

pub(crate) use access_record::{AccessRecord, millis};
pub(crate) use config_store::ConfigStore;
pub(crate) use connection_limit::{ConnectionLimit, Permit};
pub(crate) use dialed::{Dialed, Dialing, reached};
pub(crate) use flow::{Flow, Stage};
pub(crate) use flows::{Entry, Flows};
pub(crate) use log_throttle::LogThrottle;
pub(crate) use meters::{Active, Bytes, Closed, Meters};
pub(crate) use names::{Answer, Lookup, NameError, Names};
pub(crate) use orders::Order;
pub(crate) use panics::{keep_running, or_stop, run_again};
pub(crate) use phase::{Phase, Phases};
pub(crate) use server::Server;
use snapshot::Snapshot;
pub(crate) use source_limiter::{AtLimit, SourceLimits, SourcePermit};
pub(crate) use sources::{Established, Sources};
pub(crate) use upstreams::{Endpoint, EndpointUse, UpstreamRegistry};
pub(crate) use workers::{Bound, Command, Held, Inbox, ListenerKey, Newcomer, Restored, Under, Workers};

/// One for each daemon.
pub(crate) struct Hub {
    pub(crate) config: ConfigStore,
    pub(crate) workers: Arc<Workers>,
    pub(crate) flows: Flows,
    pub(crate) meters: Meters,
    pub(crate) phases: Phases,
    pub(crate) connection_limit: Arc<ConnectionLimit>,
    pub(crate) dialing: Dialing,
    pub(crate) names: Names,
    pub(crate) source_limits: SourceLimits,
    /// Set where there is a guard that wants to know, before the first connection is accepted.
    pub(crate) sources: OnceLock<Arc<Sources>>,
    pub(crate) started: Instant,
    /// Set while the sockmap datapath, found good at the start, is taken from us.
    pub(crate) sockmap_lost: AtomicBool,
}

impl Hub {
    pub(crate) fn new(snapshot: Snapshot, connection_limit: ConnectionLimit, workers: Arc<Workers>) -> Self {
        let meters = Meters::new();
        snapshot.listeners.iter().for_each(|listener| meters.know_listener(&listener.name));
        Self {
            sources: OnceLock::new(),
            meters,
            source_limits: SourceLimits::new(&snapshot),
            names: Names::new(&snapshot.upstreams),
            config: ConfigStore::new(snapshot),
            workers,
            flows: Flows::default(),
            phases: Phases::new(),
            connection_limit: Arc::new(connection_limit),
            dialing: Dialing::default(),
            started: Instant::now(),
            sockmap_lost: AtomicBool::new(false),
        }
    }

    /// Has flows that are left end, and connections that have not become flows.
    pub(crate) fn close_flows(&self) {
        self.phases.advance(Phase::Closing);
        self.flows.wake_all();
    }

    /// Whether flows are to end. Whoever carries one looks before its first wait, and whenever the flow is rung: to wait for the phase
    /// itself would cost each of them 200 bytes.
    pub(crate) fn is_closing(&self) -> bool {
        self.phases.now() >= Phase::Closing
    }
}
