//! The guard of an interface.

mod attach;
mod bans;
mod documents;
mod flood;
mod lists;
mod rates;
mod verdicts;
