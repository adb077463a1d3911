//! The guard on cards, beside offloaded connections.

use anyhow::{Result, ensure};
use harness::daemon::Config;

use crate::combination::{Plan, Scene, carried, play};

/// The modes in which the guard is attached, as `snisplice guard stats` counts them.
fn guarded(card: &str, mode: &str) -> Result<()> {
    play(card, &format!("guard, mode = \"{mode}\""), |net| {
        let config = Config::new().guards(&["client", "backend"], &format!("mode = \"{mode}\"\n"));
        let scene = Scene::start(net, Plan { config, ..Plan::default() })?;
        let metrics = scene.daemon.metrics()?;
        let count = |mode| metrics.sum("snisplice_guard_attached", &[("mode", mode)]);
        let (native, generic) = (count("native"), count("generic"));
        let outcome = carried(scene, |_| Ok(()))?;
        ensure!(native + generic > 0.0 || mode == "native", "the guard is nowhere");
        Ok(crate::combination::Outcome {
            result: format!("{}; attached: {native} native, {generic} generic", outcome.result),
            ..outcome
        })
    })
}

#[test]
fn in_the_driver() -> Result<()> {
    guarded("virtio", "native")?;
    guarded("virtio-4q", "native")
}

#[test]
fn where_the_card_lets_it() -> Result<()> {
    guarded("virtio-4q", "auto")?;
    guarded("vmxnet3", "auto")?;
    guarded("igb", "auto")?;
    guarded("e1000e", "auto")
}
