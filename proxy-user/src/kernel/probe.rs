//! What can this kernel do, with these privileges? Asked once, at start, by trying.

use std::time::{Duration, Instant};

use proxy_common::kernels::{Part, good_kernels, offloading_kernels};

use super::localtest::{self, Local};
use super::{Sockmap, Unavailable, selftest};
use crate::sys;

/// What was found.
pub(crate) struct Probed {
    pub(crate) sockmap: Result<Sockmap, Unavailable>,
    /// Why `auto` does not splice, though the self-test passed. None: it does.
    pub(crate) caution: Option<Unavailable>,
    /// None: not asked for.
    pub(crate) local: Option<Result<Local, Unavailable>>,
    pub(crate) took: Duration,
}

/// Loads the datapaths of the kernel and puts them to the test. `local`: also the one for servers on this host.
pub(crate) fn probe(debug: bool, local: bool) -> Probed {
    let begun = Instant::now();
    let (sockmap, local) = try_all(debug, local);
    let caution = sockmap.is_ok().then(caution).flatten();
    Probed { sockmap, caution, local, took: begun.elapsed() }
}

type Both = (Result<Sockmap, Unavailable>, Option<Result<Local, Unavailable>>);

fn try_all(debug: bool, local: bool) -> Both {
    if let Some(denied) = Unavailable::missing_capabilities() {
        return (Err(denied), local.then(without_sockmap));
    }
    let load = |local| Sockmap::load(debug, local).map_err(|error| error.of(Part::Sockmap));
    if !local {
        return (load(false).and_then(tested), None);
    }
    let mut sockmap = match load(true) {
        Ok(sockmap) => match tested(sockmap) {
            Ok(sockmap) => sockmap,
            Err(error) => return (Err(error), Some(without_sockmap())),
        },
        // Without what local needs, the rest may still do.
        Err(error) => return (load(false).and_then(tested), Some(Err(error.of(Part::Local)))),
    };
    let found = localtest::run(&sockmap).map_err(|error| Unavailable {
        log: None,
        what: format!("the self-test of local failed: {error:#}"),
        remedy: "flows are spliced by sockmap instead; a newer kernel may pass".to_owned(),
    });
    sockmap.reset_counters();
    (Ok(sockmap), Some(found))
}

fn tested(mut sockmap: Sockmap) -> Result<Sockmap, Unavailable> {
    selftest::run(&sockmap).map_err(|error| Unavailable {
        log: None,
        what: format!("the sockmap self-test failed: {error:#}"),
        remedy: format!("connections are copied instead; Linux {} may pass", good_kernels()),
    })?;
    sockmap.reset_counters();
    Ok(sockmap)
}

/// Bytes may be duplicated or lost on a kernel that is not known to be good, though the self-test passes.
fn caution() -> Option<Unavailable> {
    let kernel = sys::kernel();
    (!kernel.is_good).then(|| Unavailable {
        log: None,
        what: format!("Linux {} is not known to splice without losing bytes", kernel.name),
        remedy: format!(
            "run Linux {}, or set datapath = \"sockmap\" in [[upstream]] to splice all the same",
            good_kernels()
        ),
    })
}

/// Why `auto` does not offload on this kernel. None: the kernel is known to be good for that.
pub(crate) fn packet_caution() -> Option<Unavailable> {
    let kernel = sys::kernel();
    (!kernel.offloads).then(|| Unavailable {
        log: None,
        what: format!("Linux {} is not known to offload connections without a fault", kernel.name),
        remedy: format!(
            "run Linux {}, or set datapath = \"packet\" in [[upstream]] to offload all the same",
            offloading_kernels()
        ),
    })
}

fn without_sockmap() -> Result<Local, Unavailable> {
    Err(Unavailable {
        log: None,
        what: "local builds on sockmap, which is not available".to_owned(),
        remedy: "see to sockmap first".to_owned(),
    })
}
