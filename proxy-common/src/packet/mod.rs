//! What becomes of the packets of a flow that has left its sockets: arithmetic and decisions that the BPF programs and the
//! daemon share. Nothing here allocates, loops without a bound, or can panic.

pub mod ageing;
#[cfg(feature = "std")]
pub mod asked;
#[cfg(feature = "std")]
pub mod attach;
pub mod claim;
#[cfg(feature = "std")]
pub mod craft;
pub mod drain;
#[cfg(feature = "std")]
pub mod eligible;
#[cfg(feature = "std")]
pub mod folder;
pub mod header;
#[cfg(feature = "std")]
pub mod life;
pub mod options;
#[cfg(feature = "std")]
pub mod removals;
pub mod restore;
pub mod seq;
pub mod seq_validation;
pub mod sum;
