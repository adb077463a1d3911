//! What people and programs read of the results.

pub(crate) mod docs;
mod overview;
pub(crate) mod plots;
mod svg;
pub(crate) mod table;
