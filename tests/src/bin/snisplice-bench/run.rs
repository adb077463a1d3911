//! Runs a plan: round by round, each system in its turn.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::facts;
use crate::load::Stage;
use crate::load::echo::Echo;
use crate::network::{Network, Placement};
use crate::others::Others;
use crate::plan::{Plan, Scenario};
use crate::results::{DISTURBED, Outcome, Results, Sample};
use crate::system::{Places, Running, System};
use crate::values::{Metric, Values};

/// How often a disturbed measurement is made at most.
const TRIES: usize = 3;

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
    results.facts = facts::gather(&network, &plan)?;
    let mut progress = Progress::new(&plan);
    for round in 0..plan.rounds {
        for group in plan.groups() {
            for system in plan.order(round) {
                let turn = Turn { network: &network, places, plan: &plan, system, round: round + 1 };
                turn.take(group, &mut progress, &mut results);
            }
        }
    }
    results.settle_kernel_memory();
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
        let taken = self.measure(placement, scenarios, &mut outcomes, progress, results);
        for (at, scenario) in scenarios.iter().enumerate() {
            let outcome = match (outcomes.get(at), &taken) {
                (Some(Ok(values)), _) => Outcome::Measured(Values::clone(values)),
                (Some(Err(error)), _) | (None, Err(error)) => Outcome::Failed(format!("{error:#}")),
                (None, Ok(())) => Outcome::Failed("not reached".to_owned()),
            };
            if let Outcome::Failed(why) = &outcome {
                eprintln!("FAILED {} of {} in round {}: {why}", scenario.id, self.system.name, self.round);
            }
            let (scenario, system) = (scenario.id.to_owned(), self.system.name.to_owned());
            results.samples.push(Sample { scenario, system, round: self.round, outcome });
        }
        if let (Err(error), Some(_)) = (&taken, outcomes.last()) {
            eprintln!(
                "FAILED {} at the end of its turn in round {}: {error:#}",
                self.system.name, self.round
            );
            results.complaints.push(format!("{} in round {}: {error:#}", self.system.name, self.round));
        }
    }

    fn measure(
        &self,
        placement: Placement,
        scenarios: &[Scenario],
        outcomes: &mut Vec<Result<Values>>,
        progress: &mut Progress,
        results: &mut Results,
    ) -> Result<()> {
        let mut running =
            self.system.start(self.network, placement, self.places).context("starting the system")?;
        if let Some(configuration) = running.configuration(self.places) {
            results.configurations.entry(self.system.name.to_owned()).or_insert(configuration);
        }
        let echo = Echo::start(&running.path)?;
        running.probe()?;
        for scenario in scenarios {
            progress.begin(self.round, scenario, self.system);
            outcomes.push(self.undisturbed(&running, &echo, scenario, progress));
        }
        echo.stop()?;
        running.stop().context("stopping the system")
    }

    /// Measures again, and once more, while others use the machine.
    fn undisturbed(
        &self,
        running: &Running,
        echo: &Echo,
        scenario: &Scenario,
        progress: &mut Progress,
    ) -> Result<Values> {
        let processes = running.processes();
        let mut tries = 1..=TRIES;
        loop {
            let others = Others::watch()?;
            let measured = running.measure(|path| {
                let settled = &|flows| running.settled(flows);
                let window = self.plan.window;
                scenario.run(&Stage { path, echo, processes: &processes, window, settled })
            });
            let share = others.share()?;
            let last = tries.next().is_none_or(|this| this == TRIES);
            if share <= DISTURBED || last || scenario.needs_fresh_start() || !progress.may_repeat() {
                return measured.map(|mut values| {
                    values.set(Metric::Disturbance, share);
                    values
                });
            }
            eprintln!("       again: other processes used {:.0} % of the machine", share * 100.0);
        }
    }
}

/// Says what is measured, and when that will have ended.
struct Progress {
    start: Instant,
    done: usize,
    all: usize,
    rounds: usize,
    repeated: usize,
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        let all = plan.rounds * plan.scenarios.len() * plan.systems.len();
        Self { start: Instant::now(), done: 0, all, rounds: plan.rounds, repeated: 0 }
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

    /// True while repetitions make the run longer by a fifth at most; on a busy machine they are of no use anyway.
    fn may_repeat(&mut self) -> bool {
        let may = self.repeated * 5 < self.all;
        self.repeated += usize::from(may);
        may
    }

    fn skip(&mut self) {
        self.all -= 1;
    }
}
