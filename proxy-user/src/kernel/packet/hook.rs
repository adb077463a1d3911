//! Where programs are attached, by links or by filters.

use std::path::Path;

use aya::programs::ProgramError;
use aya::programs::tc::TcAttachType;
use proxy_common::abi::packet::{EGRESS, INGRESS};

/// Both programs, by name, with the directions of packets that they see.
pub(super) const BOTH: [(&str, TcAttachType); 2] =
    [(INGRESS, TcAttachType::Ingress), (EGRESS, TcAttachType::Egress)];

/// Why a program cannot be attached.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] aya::programs::links::LinkError),
    #[error(transparent)]
    Pin(#[from] aya::pin::PinError),
    #[error(transparent)]
    System(#[from] std::io::Error),
    #[error(transparent)]
    Filter(#[from] aya::programs::tc::TcError),
}

/// Where a program is to be.
pub(super) struct Place<'a> {
    pub(super) interface: &'a str,
    pub(super) kind: TcAttachType,
    /// The folder of what is pinned.
    pub(super) own: &'a Path,
    pub(super) name: &'a str,
    pub(super) device: u32,
    /// Before all programs of others, also if it has another place now.
    pub(super) is_to_be_first: bool,
}
