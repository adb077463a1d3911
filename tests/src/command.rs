//! Running programs with a bound on their time.

use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, ensure};

use crate::deadline::{PATIENCE, wait_for};

/// What a program did.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` when a signal ended the program.
    pub code: Option<i32>,
    /// All of its standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// All of its standard error output, invalid UTF-8 replaced.
    pub stderr: String,
}

impl Finished {
    /// The standard output of a program that succeeded.
    ///
    /// # Errors
    /// When the exit code is not 0; the message holds both outputs.
    pub fn success(self) -> Result<String> {
        ensure!(self.code == Some(0), "exit code {:?}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self.stdout)
    }
}

/// Runs `command` to its end with `stdin` as its input, for 20 s at most.
///
/// # Errors
/// When it cannot be started, or does not end in time: then it is killed.
pub fn run(command: &mut Command, stdin: &[u8]) -> Result<Finished> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read its input is no error: its exit code says what matters.
        drop(pipe.write_all(stdin));
    }
    let code = wait(&mut child).with_context(|| format!("running {command:?}"))?;
    let text = |output: Vec<u8>| String::from_utf8_lossy(&output).into_owned();
    let join = |reader: thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    Ok(Finished { code, stdout: text(join(stdout)), stderr: text(join(stderr)) })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut pipe) = pipe {
            drop(pipe.read_to_end(&mut all));
        }
        all
    })
}

fn wait(child: &mut Child) -> Result<Option<i32>> {
    let ended = wait_for("the program to end", 2 * PATIENCE, || child.try_wait().transpose());
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    Ok(ended??.code())
}

/// The snisplice binary under test: `SNISPLICE_BIN`, else the release build of this workspace.
///
/// # Errors
/// When there is no such file.
pub fn snisplice() -> Result<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/snisplice");
    let path = std::env::var_os("SNISPLICE_BIN").map_or(built, PathBuf::from);
    ensure!(
        path.is_file(),
        "no snisplice binary at {}: build it with `cargo xtask build`, or name another one in SNISPLICE_BIN",
        path.display()
    );
    Ok(path)
}
