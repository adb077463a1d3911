//! Many flows at once, each by a script of its own: sizes, pieces, pauses, slow readers and endings are drawn from a
//! seed, so that a failure can be repeated.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::daemon::{Access, Daemon};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::keyed::Keyed;
use harness::peers::raw::{Ending, expect_ending, finish, read_to_ending, reset};
use harness::site::{RawSite, config, polling_hello};

const FLOWS: u64 = 60;

/// Random numbers that are the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pause(&mut self, one_in: u64) {
        if self.one_in(one_in) {
            dawdle(Duration::from_micros(self.below(3000)));
        }
    }
}

/// How much one side sends: often nothing or little, sometimes a lot.
fn volume(dice: &mut Dice) -> u64 {
    match dice.below(4) {
        0 => dice.below(3),
        1 => dice.below(20_000),
        _ => dice.below(1_500_000),
    }
}

/// Sends `bytes` in pieces with pauses, and then FIN.
fn send_by_script(mut stream: &TcpStream, number: u64, bytes: u64, mut dice: Dice) -> Result<()> {
    let mut keyed = Keyed::new(number);
    let mut left = bytes;
    while left > 0 {
        let mut piece = vec![0; usize::try_from((1 + dice.below(70_000)).min(left))?];
        keyed.fill(&mut piece);
        stream.write_all(&piece).with_context(|| format!("sending with {left} of {bytes} bytes left"))?;
        left -= piece.len() as u64;
        dice.pause(4);
    }
    Ok(finish(stream)?)
}

/// Reads `bytes` in pieces with pauses, and then the end.
fn receive_by_script(mut stream: &TcpStream, number: u64, bytes: u64, mut dice: Dice) -> Result<()> {
    let mut keyed = Keyed::new(number);
    let mut left = bytes;
    while left > 0 {
        let mut piece = vec![0; usize::try_from((1 + dice.below(70_000)).min(left))?];
        std::io::Read::read_exact(&mut stream, &mut piece)
            .with_context(|| format!("receiving with {left} of {bytes} bytes left"))?;
        keyed.check(&piece)?;
        left -= piece.len() as u64;
        dice.pause(8);
    }
    expect_ending(&mut stream.try_clone()?, Ending::Eof)
}

/// Both directions of a flow at the same time.
fn talk(client: &TcpStream, server: &TcpStream, seed: u64) -> Result<(u64, u64)> {
    let mut dice = Dice(seed);
    let (bytes_in, bytes_out) = (volume(&mut dice), volume(&mut dice));
    let dice = |side| Dice(seed.wrapping_add(side));
    thread::scope(|scope| {
        let parts = [
            scope.spawn(move || send_by_script(client, 1, bytes_in, dice(1)).context("client sends")),
            scope.spawn(move || receive_by_script(server, 1, bytes_in, dice(2)).context("server receives")),
            scope.spawn(move || send_by_script(server, 2, bytes_out, dice(3)).context("server sends")),
            scope.spawn(move || receive_by_script(client, 2, bytes_out, dice(4)).context("client receives")),
        ];
        parts.into_iter().try_for_each(|part| part.join().map_err(|_| anyhow!("a side panicked"))?)
    })?;
    Ok((bytes_in, bytes_out))
}

/// A flow that one side resets while the other sends; that side must see a reset.
fn cut(mut client: TcpStream, mut server: TcpStream, seed: u64) -> Result<()> {
    let mut dice = Dice(seed);
    let (sender, cutter) =
        if dice.one_in(2) { (&mut client, server.try_clone()?) } else { (&mut server, client.try_clone()?) };
    let mut piece = vec![0; usize::try_from(1 + dice.below(200_000))?];
    Keyed::new(1).fill(&mut piece);
    sender.write_all(&piece)?;
    let before_the_cut = usize::try_from(dice.below(piece.len() as u64))?;
    std::io::Read::read_exact(&mut &cutter, &mut vec![0; before_the_cut])?;
    let mut sender = sender.try_clone()?;
    // Both handles of the cut side have to go for its reset.
    drop((client, server));
    reset(cutter)?;
    let (_, ending) = read_to_ending(&mut sender)?;
    ensure!(ending == Ending::Reset, "a reset arrived as {ending:?}");
    Ok(())
}

/// Waits for the record of a flow that ended in order. A port may be used again within one storm, so that an address can
/// have several records: one of them has to have the bytes.
fn expect_record(daemon: &Daemon, client: SocketAddr, bytes: (u64, u64)) -> Result<()> {
    let records = || daemon.access().into_iter().filter(move |record| record.client == client.to_string());
    let right = |record: &Access| (record.bytes_in, record.bytes_out) == bytes && record.reason == "eof";
    wait_for("the record of the flow", PATIENCE, || records().find(right))
        .map(drop)
        .with_context(|| format!("{bytes:?}, but {:?}", records().collect::<Vec<_>>()))
}

fn storm(seed: u64) -> Result<()> {
    let site = RawSite::start(&config())?;
    let hello = polling_hello().len() as u64;
    let site = &site;
    let outcomes: Vec<Result<()>> = thread::scope(|scope| {
        let mut flows = Vec::new();
        for number in 0..FLOWS {
            let seed = seed.wrapping_mul(1_000_003).wrapping_add(number << 8);
            let (client, server) = match site.flow() {
                Ok(flow) => flow,
                Err(error) => return vec![Err(error)],
            };
            flows.push(scope.spawn(move || -> Result<()> {
                if number % 4 == 3 {
                    return cut(client, server, seed).with_context(|| format!("cut flow {number}"));
                }
                let address = client.local_addr()?;
                let (bytes_in, bytes_out) =
                    talk(&client, &server, seed).with_context(|| format!("flow {number} from {address}"))?;
                expect_record(&site.daemon, address, (hello + bytes_in, bytes_out))
            }));
        }
        flows.into_iter().map(|flow| flow.join().unwrap_or_else(|_| Err(anyhow!("panicked")))).collect()
    });
    let wrong: Vec<_> =
        outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    assert!(wrong.is_empty(), "seed {seed}: {} of {FLOWS} flows: {wrong:#?}", wrong.len());
    site.daemon.wait_for_idle()
}

/// The seed is fixed, unless `SNISPLICE_TEST_SEED` names another.
#[test]
fn all_bytes_of_all_flows_arrive() -> Result<()> {
    let seed = std::env::var("SNISPLICE_TEST_SEED").map_or(Ok(1), |seed| seed.parse())?;
    storm(seed)
}
