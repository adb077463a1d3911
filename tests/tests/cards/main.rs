//! Offloaded connections over network cards: `cargo xtask test --cards` plays these in a virtual machine. Elsewhere they are skipped.

mod changes;
mod combination;
mod guard;
mod offloads;
mod sizes;
mod stacked;
