//! The control plane: configuration, administration, logs, and what the operator is told.

pub(crate) mod admin;
mod answer;
mod ask;
mod budget;
pub(crate) mod client;
pub(crate) mod colour;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod events;
mod exit;
pub(crate) mod explain;
pub(crate) mod guard;
pub(crate) mod logs;
pub(crate) mod orders;
pub(crate) mod paths;
pub(crate) mod pinned;
mod signals;

pub(crate) use exit::{Exit, Failure};
pub(crate) use signals::Signals;
