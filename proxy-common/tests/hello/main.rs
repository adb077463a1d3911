//! What `hello::inspect` must do with recorded, hand-made and random streams.

#[cfg(test)]
mod builder;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod handmade;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod looks;
#[cfg(test)]
mod random;
#[cfg(test)]
mod usual;
