//! The guard against a plain model of it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails may panic")]

mod lists;
mod rates;
mod verdicts;
mod world;

/// The model and the frames that the end-to-end tests put to the kernel.
#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "../../../tests/src/guard/mod.rs"]
mod harness;
