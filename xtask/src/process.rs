//! Runs other programs: quietly, with progress, and with their output kept for when they fail.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::console::{Step, Tone};
use crate::workspace;

/// How many of its last lines are shown of a program that failed. The log file has them all.
const TAIL: usize = 120;

/// How often a step looks at the clock.
const TICK: Duration = Duration::from_millis(250);

/// A program that says nothing for this long hangs: the longest quiet step, a compiler on a slow machine, takes less.
pub(crate) const SILENCE: Duration = Duration::from_secs(15 * 60);

/// Where a line came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// How a program ended and all that it wrote, both streams in the order in which they arrived.
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    /// It was ended, since it said nothing for too long.
    pub(crate) fell_silent: bool,
}

/// Runs `command` as one step of work. If it fails, shows the end of what it wrote, and names the remedy.
pub(crate) fn step(title: &str, command: &mut Command, remedy: &str) -> Result<()> {
    let mut step = Step::begin(title);
    let outcome = observe(command, &mut step, |_, _| String::new())?;
    if outcome.status.success() {
        step.end(Tone::Good, "");
        return Ok(());
    }
    step.end(Tone::Bad, "");
    let log = keep_log(title, &outcome.output)?;
    println!("{}", tail(&outcome.output));
    bail!(
        "{title}: {} ended with {}\n  whole log: {}\n  remedy: {remedy}",
        name(command),
        outcome.status,
        log
    );
}

/// Runs `command` to its end. `on_line` sees each line and returns the progress note of the step.
pub(crate) fn observe(
    command: &mut Command,
    step: &mut Step,
    on_line: impl FnMut(Stream, &str) -> String,
) -> Result<Outcome> {
    observe_for(command, SILENCE, step, on_line)
}

/// The same of a command that hangs if it says nothing for this long.
pub(crate) fn observe_for(
    command: &mut Command,
    silence: Duration,
    step: &mut Step,
    mut on_line: impl FnMut(Stream, &str) -> String,
) -> Result<Outcome> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", name(command)))?;
    let lines = read_lines(&mut child);
    let mut output = String::new();
    let mut note = String::new();
    let mut heard = Instant::now();
    let mut fell_silent = false;
    loop {
        match lines.recv_timeout(TICK) {
            Ok((stream, line)) => {
                heard = Instant::now();
                note = on_line(stream, &line);
                output.push_str(&line);
                output.push('\n');
            }
            // A daemon that the child left behind may hold the pipe open: its silence ends the wait.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(RecvTimeoutError::Timeout) if heard.elapsed() > silence => {
                child.kill()?;
                output.push_str(&format!("killed: it said nothing for {} s\n", silence.as_secs()));
                fell_silent = true;
                break;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        step.tick(&note);
    }
    Ok(Outcome { status: child.wait()?, output, fell_silent })
}

/// Runs `command` and returns its standard output, or nothing if it cannot be run or fails.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines of a log, with a word about those left out.
pub(crate) fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !is_progress(line)).collect();
    let from = lines.len().saturating_sub(TAIL);
    let mut text = String::new();
    if from > 0 {
        text.push_str(&format!("    ({from} lines before this are in the log)\n"));
    }
    for line in lines.iter().skip(from) {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

/// True for what cargo says while all is well.
fn is_progress(line: &str) -> bool {
    const VERBS: [&str; 6] =
        ["Compiling ", "Checking ", "Downloading ", "Downloaded ", "Running ", "guest lives"];
    VERBS.iter().any(|verb| line.trim_start().starts_with(verb))
}

/// Writes what a step has said to `target/xtask/`, and returns the file's name.
pub(crate) fn keep_log(title: &str, output: &str) -> Result<String> {
    let dir = workspace::own_target().join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let slug: String =
        title.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let file: PathBuf = dir.join(format!("{slug}.log"));
    fs::write(&file, output).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file.display().to_string())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn read_lines(child: &mut Child) -> Receiver<(Stream, String)> {
    let (sender, receiver) = channel();
    if let Some(out) = child.stdout.take() {
        forward(out, Stream::Out, sender.clone());
    }
    if let Some(err) = child.stderr.take() {
        forward(err, Stream::Err, sender);
    }
    receiver
}

fn forward(pipe: impl Read + Send + 'static, stream: Stream, to: Sender<(Stream, String)>) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if to.send((stream, text)).is_err() {
                return;
            }
            line.clear();
        }
    });
}
