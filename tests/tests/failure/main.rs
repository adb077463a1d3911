//! What goes wrong around the daemon: each case has an outcome that peers can live with, and is counted.

mod files;
mod foreign;
mod lost;
mod vanished;
