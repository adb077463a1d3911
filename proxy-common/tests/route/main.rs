//! Which route takes a connection: examples, and a naive reference to agree with.

#[cfg(test)]
mod examples;
#[cfg(test)]
mod reference;
