//! The guard: what an interface lets in.
//!
//! All that decides about a packet is here, and runs in the kernel (`proxy-ebpf/src/guard.rs`) as it runs in the tests: it
//! reads packets through [`Bytes`] and what the daemon has told it through [`World`].

#[cfg(feature = "std")]
mod ban;
mod bucket;
mod endpoints;
mod lists;
mod packet;
mod reason;
#[cfg(feature = "std")]
mod table;
mod verdict;

#[cfg(feature = "std")]
pub use ban::{Ban, Bans, Offence, Policy, Refusal, Why, overlap};
pub use bucket::{Bucket, Rate};
pub use endpoints::{Endpoint, MAX_ENDPOINTS, PLACES, Place, contains};
#[cfg(feature = "std")]
pub use endpoints::{Endpoints, TooManyEndpoints};
pub use lists::{Key, Listed, Listing, MAX_BOUNDARIES, SLOTS, search};
pub use packet::{Address, Bytes, Defect, Family, Head, Segment, segment};
pub use reason::Reason;
#[cfg(feature = "std")]
pub use table::{Table, TooMany};
pub use verdict::{SKETCH_BITS, Source, World, decide};
