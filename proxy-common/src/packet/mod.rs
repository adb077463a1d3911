//! What becomes of the packets of a flow that has left its sockets: arithmetic and decisions that the BPF programs and the
//! daemon share. Nothing here allocates, loops without a bound, or can panic.

pub mod belief;
pub mod drain;
#[cfg(feature = "std")]
pub mod eligible;
pub mod header;
pub mod options;
pub mod seq;
pub mod sum;
