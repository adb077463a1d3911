//! Runs a plan: round by round, each system in its turn.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::load::echo::Echo;
use crate::network::Network;
use crate::plan::{Plan, Scenario};
use crate::results::{Outcome, Results, Sample};
use crate::system::{Places, System};

/// Measures all of `plan`.
pub(crate) fn run(mut plan: Plan, places: &Places) -> Result<Results> {
    let mut results = Results::default();
    let network = Network::create()?;
    plan.systems.retain(|system| match system.version(&network, places) {
        Ok(version) => {
            results.versions.insert(system.name.to_owned(), version);
            true
        }
        Err(error) => {
            eprintln!("NOT MEASURED {}: {error:#}", system.name);
            results.not_measured.insert(system.name.to_owned(), format!("{error:#}"));
            false
        }
    });
    let mut progress = Progress::new(&plan);
    for round in 0..plan.rounds {
        for group in plan.groups() {
            for system in plan.order(round) {
                let turn = Turn { network: &network, places, plan: &plan, system, round: round + 1 };
                turn.take(group, &mut progress, &mut results);
            }
        }
    }
    Ok(results)
}

/// One system in one round with scenarios of one placement.
struct Turn<'a> {
    network: &'a Network,
    places: &'a Places,
    plan: &'a Plan,
    system: System,
    round: usize,
}

impl Turn<'_> {
    /// Measures `scenarios`. What fails is recorded and does not keep the rest from being measured.
    fn take(&self, scenarios: &[Scenario], progress: &mut Progress, results: &mut Results) {
        let Some(placement) = scenarios.first().map(|scenario| scenario.placement) else { return };
        if !self.system.applies_to(placement) {
            scenarios.iter().for_each(|_| progress.skip());
            return;
        }
        let mut outcomes = Vec::new();
        let taken = self.measure(scenarios, &mut outcomes, progress);
        for (at, scenario) in scenarios.iter().enumerate() {
            let outcome = match (outcomes.get(at), &taken) {
                (Some(Ok(values)), _) => Outcome::Measured(values.clone()),
                (Some(Err(error)), _) => Outcome::Failed(format!("{error:#}")),
                (None, Err(error)) => Outcome::Failed(format!("{error:#}")),
                (None, Ok(())) => Outcome::Failed("not reached".to_owned()),
            };
            if let Outcome::Failed(why) = &outcome {
                eprintln!("FAILED {} of {} in round {}: {why}", scenario.id, self.system.name, self.round);
            }
            let (scenario, system) = (scenario.id.to_owned(), self.system.name.to_owned());
            results.samples.push(Sample { scenario, system, round: self.round, outcome });
        }
        if let Err(error) = taken {
            eprintln!("FAILED {} in round {}: {error:#}", self.system.name, self.round);
        }
    }

    fn measure(
        &self,
        scenarios: &[Scenario],
        outcomes: &mut Vec<Result<crate::values::Values>>,
        progress: &mut Progress,
    ) -> Result<()> {
        let Some(placement) = scenarios.first().map(|scenario| scenario.placement) else { return Ok(()) };
        let mut running =
            self.system.start(self.network, placement, self.places).context("starting the system")?;
        let echo = Echo::start(&running.path)?;
        running.probe()?;
        for scenario in scenarios {
            progress.begin(self.round, scenario, self.system);
            outcomes.push(running.measure(|path| scenario.run(path, &echo, self.plan.window)));
        }
        echo.stop()?;
        running.stop().context("stopping the system")
    }
}

/// Says what is measured, and when that will have ended.
struct Progress {
    start: Instant,
    done: usize,
    all: usize,
    rounds: usize,
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        let all = plan.rounds * plan.scenarios.len() * plan.systems.len();
        Self { start: Instant::now(), done: 0, all, rounds: plan.rounds }
    }

    fn begin(&mut self, round: usize, scenario: &Scenario, system: System) {
        let left = if self.done == 0 {
            "?".to_owned()
        } else {
            let each = self.start.elapsed().as_secs_f64() / self.done as f64;
            format!("{:.0}", each * (self.all - self.done) as f64)
        };
        eprintln!(
            "[{}/{}] round {round} of {}: {} {} ({left} s left)",
            self.done + 1,
            self.all,
            self.rounds,
            scenario.id,
            system.name
        );
        self.done += 1;
    }

    fn skip(&mut self) {
        self.all -= 1;
    }
}
