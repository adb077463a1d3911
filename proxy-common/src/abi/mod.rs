//! What the BPF programs and the daemon share: names, keys, values and counters of the maps.
//!
//! Every value is made of `u64` words, so that its layout has no padding and the daemon can read it as an array
//! without `unsafe`.

pub mod credit;
pub mod guard;
pub mod local;
pub mod packet;
pub mod sockmap;
