//! The demo's text for people.

use std::io::{IsTerminal as _, stdout};

use crate::report::{Outlived, Report, Visit};

const HEADINGS: [&str; 9] =
    ["client", "name", "port", "route", "upstream", "datapath", "bytes in", "bytes out", "certificate"];
/// The columns of numbers, which are aligned to the right.
const NUMBERS: [usize; 3] = [2, 6, 7];

/// Prints to standard output, in colour only on a terminal; silent when the demo's result is JSON.
#[derive(Debug)]
pub(crate) struct Printer {
    loud: bool,
    colour: bool,
}

impl Printer {
    pub(crate) fn new(loud: bool) -> Self {
        Self { loud, colour: stdout().is_terminal() }
    }

    /// Says what happens now.
    pub(crate) fn step(&self, text: &str) {
        if self.loud {
            println!("{} {text}", self.paint("1;36", "::"));
        }
    }

    /// Prints the results.
    pub(crate) fn report(&self, report: &Report) {
        println!();
        self.table(&report.visits);
        for visit in &report.visits {
            for problem in &visit.problems {
                self.problem(&format!("{}: {problem}", visit.who));
            }
        }
        println!();
        self.kernel(report);
        if let Some(burst) = &report.burst {
            let rate = f64::from(burst.opened) / burst.seconds;
            println!("{} connections in a row, {rate:.0} per second, {} lost", burst.opened, burst.lost);
            burst.errors.iter().for_each(|error| self.problem(error));
        }
        self.outlived(&report.outlived);
        report.complaints.iter().for_each(|complaint| self.problem(complaint));
        match report.is_good() {
            true => println!("{}", self.paint("1;32", "everything works as expected")),
            false => println!("{}", self.paint("1;31", "NOT everything works as expected")),
        }
    }

    fn kernel(&self, report: &Report) {
        let kernel = &report.kernel;
        println!(
            "kernel counters: {} redirected bytes before, {} after, in {} segments; {} bytes were copied by snisplice, \
             because their receiver was slower than their sender",
            kernel.redirected_before, kernel.redirected_after, kernel.segments, kernel.passed
        );
        let verdict = format!("the kernel forwarded {} of {} bytes", kernel.redirected(), report.bytes());
        match &report.kernel_unavailable {
            Some(reason) => println!("{verdict}: splicing is unavailable on this host: {reason}"),
            None if report.kernel_carried() => println!("{}", self.paint("1", &verdict)),
            None => self.problem(&verdict),
        }
    }

    fn outlived(&self, outlived: &Outlived) {
        let Outlived { unavailable, agents, polls_without_daemon, ended_in_order, forwarded_packets } =
            outlived;
        let told = format!(
            "{agents} agents with offloaded connections: {polls_without_daemon} polls were answered while the daemon was dead, \
             {ended_in_order} connections were found again and closed in order; {forwarded_packets} packets were forwarded"
        );
        match unavailable {
            Some(reason) => println!("offloading is unavailable on this host: {reason}"),
            None if outlived.is_good() => println!("{}", self.paint("1", &told)),
            None => self.problem(&told),
        }
    }

    fn problem(&self, text: &str) {
        println!("{} {text}", self.paint("1;31", "!!"));
    }

    fn table(&self, visits: &[Visit]) {
        let headings = HEADINGS.map(str::to_owned);
        let rows: Vec<_> = visits.iter().map(cells).collect();
        let mut widths = headings.clone().map(|heading| heading.len());
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        println!("{}", self.paint("1", &line(&headings, &widths)));
        for row in &rows {
            println!("{}", line(row, &widths));
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn line(cells: &[String; 9], widths: &[usize; 9]) -> String {
    let aligned = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
        if NUMBERS.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    });
    aligned.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn cells(visit: &Visit) -> [String; 9] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        visit.who.clone(),
        or_dash(&visit.name),
        visit.port.to_string(),
        or_dash(&visit.route),
        or_dash(&visit.upstream),
        or_dash(&visit.datapath),
        visit.bytes_in.to_string(),
        visit.bytes_out.to_string(),
        if visit.certificate { "ok" } else { "NO" }.to_owned(),
    ]
}

/// A number of bytes in MiB.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}
