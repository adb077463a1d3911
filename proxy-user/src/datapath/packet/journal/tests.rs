use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::sync::mpsc::{Receiver, channel};

use proxy_common::abi::packet::KEY_WORDS;

use super::writer::SLACK;
use super::*;
use crate::datapath::packet::negotiated_options::NegotiatedOptions;

const PATIENCE: Duration = Duration::from_secs(20);

fn note(number: u32) -> Note {
    Note {
        keys: [[number; KEY_WORDS], [0; KEY_WORDS]],
        options: Some(NegotiatedOptions { stamps: true, selective: false, sizes: [[number, 2], [3, 4]] }),
        listener: "tls".to_owned(),
        sni: Some("a.example".into()),
        route: "r".to_owned(),
        upstream: None,
        age_ms: 1,
        clock_ms: 2,
        hello_ms: Some(3),
        connect_ms: None,
    }
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("snisplice-journal-{name}-{}", std::process::id()))
}

fn lines(path: &Path) -> usize {
    fs::read(path).unwrap().split(|byte| *byte == b'\n').count() - 1
}

fn gone(number: u32) -> [Key; 2] {
    [Key::from_words([number; KEY_WORDS]), Key::default()]
}

fn numbers(path: &Path) -> Vec<u32> {
    let mut numbers: Vec<u32> = file::load(path).unwrap().keys().map(|[number, ..]| *number).collect();
    numbers.sort_unstable();
    numbers
}

impl Journal {
    /// Waits until all is written, or cannot be.
    fn settle(&self) {
        let state = self.shared.state();
        let is_busy = |state: &mut State| !state.is_idle;
        let (state, waited) = self.shared.changed.wait_timeout_while(state, PATIENCE, is_busy).unwrap();
        drop(state);
        assert!(!waited.timed_out(), "the journal is not written");
    }
}

#[test]
fn what_came_and_did_not_go_is_found_by_the_next() {
    let folder = folder("next");
    let path = folder.join("packet.journal");
    let journal = Journal::new(&path);
    (1..=3).for_each(|number| journal.add(note(number)));
    journal.remove(&gone(2));
    journal.finish();
    // The daemon was killed in the middle of a line, and somebody has written more than a line.
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"Came\":{").unwrap();
    file.write_all(&[b'x'; 200_000]).unwrap();

    let next = Journal::new(&path);
    assert_eq!(numbers(&path), [1, 3]);
    let found = next.load();
    assert_eq!(found[&[3; KEY_WORDS]], note(3));
    next.begin_with(vec![note(3)]);
    next.add(note(4));
    next.finish();
    assert_eq!(numbers(&path), [3, 4]);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_more_flows_the_rarer_is_the_file_written_anew() {
    let folder = folder("many");
    let path = folder.join("packet.journal");
    let journal = Journal::new(&path);
    let many = 2 * u32::try_from(SLACK).unwrap();
    journal.begin_with((0..many).map(note).collect());
    journal.settle();
    assert_eq!(lines(&path), 2 * SLACK);
    let pass = |number| {
        journal.add(note(number));
        journal.remove(&gone(number));
        if number % 1000 == 999 {
            journal.settle();
        }
    };
    (0..many / 2).for_each(|number| pass(many + number));
    assert_eq!(lines(&path), 4 * SLACK);
    (0..2).for_each(|number| pass(many + number));
    journal.settle();
    assert!(lines(&path) < 2 * SLACK + 5, "{}", lines(&path));
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_file_that_cannot_be_written_is_tried_again_later_and_then_whole() {
    let folder = folder("none");
    let path = folder.join("packet.journal");
    // It cannot be a folder.
    fs::write(&folder, "").unwrap();
    let retry = Duration::from_millis(300);
    let journal = Journal::with(&path, Box::new(Files::new(&path)), retry);
    let begun = std::time::Instant::now();
    journal.add(note(1));
    journal.settle();
    fs::remove_file(&folder).unwrap();
    journal.add(note(2));
    let state = journal.shared.state();
    let is_due = |state: &mut State| state.is_due() || !state.is_idle;
    let (state, _) = journal.shared.changed.wait_timeout_while(state, PATIENCE, is_due).unwrap();
    drop(state);
    assert!(begun.elapsed() >= retry);
    assert_eq!(numbers(&path), [1, 2]);
    fs::remove_dir_all(&folder).unwrap();
}

/// A disk that hangs until it is permitted to go on.
struct Hanging {
    files: Files,
    permitted: Receiver<()>,
    /// The next write panics.
    has_a_defect: bool,
}

impl Hanging {
    fn new(path: &Path, permitted: Receiver<()>) -> Self {
        Self { files: Files::new(path), permitted, has_a_defect: false }
    }
}

impl Store for Hanging {
    fn is_open(&self) -> bool {
        self.files.is_open()
    }

    fn begin(&mut self) -> io::Result<()> {
        self.files.begin()
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        assert!(!std::mem::take(&mut self.has_a_defect), "a defect of the writer");
        // Without a sender: open.
        let _ = self.permitted.recv();
        self.files.write(lines)
    }

    fn place(&mut self) -> io::Result<()> {
        self.files.place()
    }

    fn close(&mut self) {
        self.files.close();
    }
}

#[test]
fn nobody_waits_for_a_disk_that_hangs_and_the_file_is_whole_once_it_does_not() {
    let folder = folder("hanging");
    let path = folder.join("packet.journal");
    let (permit, permitted) = channel();
    let store = Hanging::new(&path, permitted);
    let journal = Journal::with(&path, Box::new(store), RETRY);
    let many = u32::try_from(2 * PENDING_MAX).unwrap();
    (0..many).for_each(|number| journal.add(note(number)));
    (0..many).filter(|number| number % 100 != 0).for_each(|number| journal.remove(&gone(number)));
    assert!(journal.shared.state().pending.len() <= PENDING_MAX);
    assert!(!path.exists());
    drop(permit);
    journal.settle();
    journal.finish();
    let expected: Vec<u32> = (0..many).filter(|number| number % 100 == 0).collect();
    assert_eq!(numbers(&path), expected);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_change_while_the_file_is_written_anew_is_not_lost() {
    let folder = folder("meanwhile");
    let path = folder.join("packet.journal");
    let (permit, permitted) = channel();
    let store = Hanging::new(&path, permitted);
    let journal = Journal::with(&path, Box::new(store), RETRY);
    journal.begin_with((0..1000).map(note).collect());
    // In the middle of the table.
    (0..PARTS / 2).for_each(|_| permit.send(()).unwrap());
    (0..500).for_each(|number| journal.remove(&gone(number)));
    (1000..1500).for_each(|number| journal.add(note(number)));
    drop(permit);
    journal.settle();
    journal.finish();
    assert_eq!(numbers(&path), (500..1500).collect::<Vec<u32>>());
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_end_does_not_wait_for_ever_for_a_disk_that_hangs() {
    let folder = folder("end");
    let path = folder.join("packet.journal");
    let (_permit, permitted) = channel();
    let journal = Journal::with(&path, Box::new(Hanging::new(&path, permitted)), RETRY);
    journal.add(note(1));
    let begun = std::time::Instant::now();
    journal.finish();
    assert!(begun.elapsed() >= LAST_WRITE);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_journal_goes_on_after_a_panic_of_its_writer() {
    let folder = folder("panic");
    let path = folder.join("packet.journal");
    let store = Hanging { has_a_defect: true, ..Hanging::new(&path, channel().1) };
    let journal = Journal::with(&path, Box::new(store), RETRY);
    journal.add(note(1));
    let state = journal.shared.state();
    let is_pending = |state: &mut State| state.is_due() || !state.is_idle;
    let (state, _) = journal.shared.changed.wait_timeout_while(state, PATIENCE, is_pending).unwrap();
    drop(state);
    assert_eq!(numbers(&path), [1]);
    fs::remove_dir_all(&folder).unwrap();
}
