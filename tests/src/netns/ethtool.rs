//! What ethtool(8) does: features, queues and rings of an interface.

use anyhow::{Context as _, Result, bail};

use super::Namespace;
use crate::wire::ethtool;

/// Commands, and the set of the features' names (`linux/ethtool.h`).
const GET_RINGS: u32 = 0x10;
const SET_RINGS: u32 = 0x11;
const GET_STRINGS: u32 = 0x1b;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const GET_CHANNELS: u32 = 0x3c;
const SET_CHANNELS: u32 = 0x3d;
const FEATURE_NAMES: u32 = 4;

/// More features than any kernel has, as words of bits and as names; words of a name.
const BLOCKS: usize = 8;
const MOST: usize = 32 * BLOCKS;
const NAME: usize = 8;

/// Slots of the rings of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rings {
    /// For packets that come in.
    pub receive: u32,
    /// For those that go out.
    pub send: u32,
}

impl Namespace {
    /// Switches a feature of an interface, by the kernel's name for it, and says whether it is on then: an interface has some for good,
    /// and others never.
    ///
    /// # Errors
    /// When the kernel has no such feature, or refuses.
    pub fn set_feature(&self, interface: &str, feature: &str, on: bool) -> Result<bool> {
        self.enter(|| {
            let names = names(interface)?;
            let at = names.iter().position(|name| name == feature);
            let at = at.with_context(|| format!("this kernel has no {feature}"))?;
            let (block, bit) = (at / 32, 1_u32 << (at % 32));
            let mut words = [0; 2 + 2 * BLOCKS];
            words[0] = SET_FEATURES;
            words[1] = u32::try_from(names.len().div_ceil(32))?;
            let [valid, wanted] = words
                .get_mut(2..)
                .context("no blocks")?
                .as_chunks_mut()
                .0
                .get_mut(block)
                .context("no block")?;
            (*valid, *wanted) = (bit, if on { bit } else { 0 });
            ethtool(interface, &mut words).with_context(|| format!("{feature} of {interface}"))?;
            let mut words = [0; 2 + 4 * BLOCKS];
            words[0] = GET_FEATURES;
            words[1] = u32::try_from(BLOCKS)?;
            ethtool(interface, &mut words)?;
            let [_, _, active, _] =
                words.get(2..).context("no blocks")?.as_chunks().0.get(block).context("no block")?;
            Ok(active & bit != 0)
        })
    }

    /// Sets how many queues of both kinds an interface uses.
    ///
    /// # Errors
    /// When it cannot have as many.
    pub fn set_queues(&self, interface: &str, queues: u32) -> Result<()> {
        self.enter(|| {
            let mut words = [0; 9];
            words[0] = GET_CHANNELS;
            ethtool(interface, &mut words).with_context(|| format!("the queues of {interface}"))?;
            (words[0], words[8]) = (SET_CHANNELS, queues);
            ethtool(interface, &mut words).with_context(|| format!("{queues} queues of {interface}"))
        })
    }

    /// The rings of an interface.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn rings(&self, interface: &str) -> Result<Rings> {
        self.enter(|| {
            let words = rings(interface)?;
            Ok(Rings { receive: words[5], send: words[8] })
        })
    }

    /// Makes the rings of an interface so large.
    ///
    /// # Errors
    /// When it refuses.
    pub fn set_rings(&self, interface: &str, to: Rings) -> Result<()> {
        self.enter(|| {
            let mut words = rings(interface)?;
            (words[0], words[5], words[8]) = (SET_RINGS, to.receive, to.send);
            ethtool(interface, &mut words).with_context(|| format!("{to:?} of {interface}"))
        })
    }
}

fn rings(interface: &str) -> Result<[u32; 9]> {
    let mut words = [0; 9];
    words[0] = GET_RINGS;
    ethtool(interface, &mut words).with_context(|| format!("the rings of {interface}"))?;
    Ok(words)
}

/// Names of all features, in the order of their numbers.
fn names(interface: &str) -> Result<Vec<String>> {
    let mut words = vec![0; 3 + MOST * NAME];
    let [command, set, ..] = words.as_mut_slice() else { bail!("no room") };
    (*command, *set) = (GET_STRINGS, FEATURE_NAMES);
    ethtool(interface, &mut words).context("the names of features")?;
    let name = |words: &[u32; NAME]| {
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0);
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    };
    let [_, _, count, names @ ..] = words.as_slice() else { bail!("no room") };
    Ok(names.as_chunks().0.iter().take(usize::try_from(*count)?).map(name).collect())
}
