//! Flows whose packets go another way than before.

use std::collections::BTreeMap;
use std::io;

use aya::maps::{HashMap, Map, MapData};
use proxy_common::abi::packet::{
    Answer, EGRESS, ENTRY_WORDS, Entry, FLOWS, INGRESS, KEY_WORDS, Key, Request,
};

use super::{Packet, into_io, pins};
use crate::sys;

impl Packet {
    /// Shows all entries, one after the other. What changes meanwhile may be missing. Nobody else has to wait for it.
    pub(crate) fn for_each(&self, mut show: impl FnMut(&Key, &Entry)) -> io::Result<()> {
        let data = MapData::from_pin(self.pins.join(FLOWS)).map_err(into_io)?;
        let flows = HashMap::<_, [u32; KEY_WORDS], [u32; ENTRY_WORDS]>::try_from(Map::HashMap(data))
            .map_err(into_io)?;
        for (key, words) in flows.iter().filter_map(Result::ok) {
            show(&Key::from_words(key), &Entry::from_words(&words));
        }
        Ok(())
    }

    /// From now on packets with this key go out by this interface; 0: they are dropped. Says whether there is such a flow.
    pub(crate) fn steer(&self, key: &Key, device: u32) -> io::Result<bool> {
        let answer = sys::run_program(&self.control, &Request::steering(key, device))?;
        Ok(Answer::from_code(answer) == Answer::Done)
    }

    /// Has the programs again at the interfaces of `links` that had them before.
    pub(crate) fn attach_again(&self, links: &BTreeMap<String, u32>) {
        self.devices.attach_again(links, &self.pins);
    }

    /// These interfaces have gone; none: any may have gone. If they come back, the programs have to be attached again.
    pub(crate) fn doubt(&self, gone: Option<&[u32]>) {
        let Some(gone) = gone else { return self.devices.forget_gone() };
        self.devices.forget(gone);
        // Their links lead nowhere any more, even where another interface has the number by now.
        for device in gone {
            for program in [INGRESS, EGRESS] {
                for pin in
                    [pins::link(&self.pins, program, *device), pins::filter(&self.pins, program, *device)]
                {
                    let _ = std::fs::remove_file(pin);
                }
            }
        }
    }
}
