//! Stages of tests on other kernels.

use std::time::Instant;

use super::plan::{self, Look};
use super::summary::Stage;
use super::{ALL_KERNELS, Options, guest, kernel_log, matrix, outcome};
use crate::setup;

/// Those that are named, looked at closely; else an old and a new one, for a short time.
pub(super) fn stages(named: &[String], options: &Options) -> Vec<Stage> {
    let (suites, look) = match named {
        [] => (setup::OF_GATE.to_vec(), Look::Short),
        named => (self::named(named), Look::Close),
    };
    suites.into_iter().map(|suite| kernel_log::around(|| stage(suite, look, options))).collect()
}

/// Tests on the newest kernel of a suite of Debian.
fn stage(suite: &str, look: Look, options: &Options) -> Stage {
    let began = Instant::now();
    let prepared = setup::for_guest(suite).and_then(|found| {
        let parts = plan::parts(suite, look, options)?;
        let before = match look {
            Look::Short => String::new(),
            Look::Close => format!("export SNISPLICE_TEST_BULK={}\n{}", options.bulk, guest::doctor()),
        };
        let command = guest::play(&found, &before, &parts)?;
        Ok((found.kernel.release, parts, command))
    });
    let (release, parts, command) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let (name, took) = (format!("guest ({suite})"), began.elapsed());
            let why = vec![format!("no virtual machine with another kernel: {error:#}")];
            // A kernel that was asked for by name is not left out.
            let (failed, skipped) = if look == Look::Close { (why, Vec::new()) } else { (Vec::new(), why) };
            return Stage { name, failed, skipped, took, ..Stage::default() };
        }
    };
    let (mut stage, _) = outcome::of_guest(&format!("guest (Linux {release})"), command, options);
    if look == Look::Close && options.only.is_none() {
        let (ended, doctor) = (&stage.programs, &stage.doctor);
        let is_good = stage.failed.is_empty();
        let played = matrix::Played {
            suite,
            release: &release,
            parts: &parts,
            ended,
            doctor,
            is_good,
            bulk: options.bulk,
        };
        match matrix::write(&played) {
            Ok(file) => println!("         written: the row of {suite} in {}", file.display()),
            Err(error) => stage.failed.push(format!("the table of kernels: {error:#}")),
        }
    }
    Stage { took: began.elapsed(), ..stage }
}

/// The suites whose kernels are to be played, each once.
pub(super) fn named(named: &[String]) -> Vec<&str> {
    let wants = |suite: &str| named.iter().any(|name| name == suite || name == ALL_KERNELS);
    setup::KERNELS.into_iter().filter(|suite| wants(suite)).collect()
}
