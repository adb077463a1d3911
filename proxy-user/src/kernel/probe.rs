//! What can this kernel do, with these privileges? Asked once, at start, by trying.

use std::time::{Duration, Instant};

use super::{Sockmap, Unavailable, selftest};

/// Loads the sockmap datapath and puts it to the test. Also says how long that took.
pub(crate) fn probe(debug: bool) -> (Result<Sockmap, Unavailable>, Duration) {
    let begun = Instant::now();
    let result = load_and_test(debug);
    (result, begun.elapsed())
}

fn load_and_test(debug: bool) -> Result<Sockmap, Unavailable> {
    if let Some(denied) = Unavailable::missing_capabilities() {
        return Err(denied);
    }
    let mut sockmap = Sockmap::load(debug)?;
    selftest::run(&sockmap).map_err(|error| Unavailable {
        what: format!("the sockmap self-test failed: {error:#}"),
        remedy: "flows are copied by userspace instead; a newer kernel (6.1.191, 6.12.92 or 6.18 and later of their \
                 series) may pass"
            .to_owned(),
    })?;
    sockmap.reset_counters();
    Ok(sockmap)
}
