//! The pure core of snisplice.
//!
//! Nothing here opens a socket or a file, reads a clock, draws a random number or starts a task: time and
//! seeds are arguments. That is what lets every decision be tested without a kernel. The parts that the
//! BPF programs share, [`abi`], [`guard`] and [`packet`], need neither `std` nor a dependency.

#![cfg_attr(not(feature = "std"), no_std)]

pub mod abi;
#[cfg(feature = "std")]
pub mod balance;
#[cfg(feature = "std")]
pub mod btf;
#[cfg(feature = "std")]
pub mod flow;
pub mod guard;
#[cfg(feature = "std")]
pub mod hello;
#[cfg(feature = "std")]
pub mod kernels;
pub mod packet;
#[cfg(feature = "std")]
pub mod plan;
#[cfg(feature = "std")]
pub mod ports;
#[cfg(feature = "std")]
pub mod precedence;
#[cfg(feature = "std")]
pub mod route;
#[cfg(feature = "std")]
pub mod upstream;
