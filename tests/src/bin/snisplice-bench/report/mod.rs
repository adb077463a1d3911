//! What people and programs read of the results.

pub(crate) mod table;
