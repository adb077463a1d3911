//! Frames for the guard, and what it should do with them.

pub mod frame;
pub mod model;
pub mod random;
