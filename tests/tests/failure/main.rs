//! What goes wrong around the daemon: each case has an outcome that peers can live with, and is counted.

mod burst;
mod connect;
mod files;
mod foreign;
mod full;
mod itself;
mod logs;
mod lost;
mod names;
mod paths;
mod servers;
mod signals;
mod socket;
mod vanished;
