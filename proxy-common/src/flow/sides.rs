//! One value for each side of a flow.

use core::ops::{Index, IndexMut};

use super::Side;

/// One value for each side, found by [`Side`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sides<T> {
    /// Of the client's side.
    pub client: T,
    /// Of the upstream's side.
    pub upstream: T,
}

impl<T> Sides<T> {
    /// These two.
    #[must_use]
    pub const fn new(client: T, upstream: T) -> Self {
        Self { client, upstream }
    }

    /// The same value for both.
    #[must_use]
    pub const fn both(value: T) -> Self
    where
        T: Copy,
    {
        Self { client: value, upstream: value }
    }

    /// What `make` says of each side, the client's first.
    #[must_use]
    pub fn of(mut make: impl FnMut(Side) -> T) -> Self {
        Self { client: make(Side::Client), upstream: make(Side::Upstream) }
    }

    /// References to both.
    #[must_use]
    pub const fn each_ref(&self) -> Sides<&T> {
        Sides { client: &self.client, upstream: &self.upstream }
    }

    /// What `change` makes of each.
    #[must_use]
    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> Sides<U> {
        Sides { client: change(self.client), upstream: change(self.upstream) }
    }

    /// Whether `holds` says so of both.
    #[must_use]
    pub fn all(&self, mut holds: impl FnMut(&T) -> bool) -> bool {
        holds(&self.client) && holds(&self.upstream)
    }

    /// Whether `holds` says so of one of them.
    #[must_use]
    pub fn any(&self, mut holds: impl FnMut(&T) -> bool) -> bool {
        holds(&self.client) || holds(&self.upstream)
    }
}

impl<T> Index<Side> for Sides<T> {
    type Output = T;

    fn index(&self, side: Side) -> &T {
        match side {
            Side::Client => &self.client,
            Side::Upstream => &self.upstream,
        }
    }
}

impl<T> IndexMut<Side> for Sides<T> {
    fn index_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }
}

/// The client's first.
impl<T> IntoIterator for Sides<T> {
    type Item = T;
    type IntoIter = core::array::IntoIter<T, 2>;

    fn into_iter(self) -> Self::IntoIter {
        [self.client, self.upstream].into_iter()
    }
}

/// The client's first.
impl<T> From<[T; 2]> for Sides<T> {
    fn from([client, upstream]: [T; 2]) -> Self {
        Self { client, upstream }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_its_own() {
        let mut sides = Sides::from([1, 2]);
        assert_eq!((sides[Side::Client], sides[Side::Upstream]), (1, 2));
        sides[Side::Upstream] = 3;
        assert_eq!(sides.into_iter().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(Sides::of(|side| sides[side.other()]), Sides::new(3, 1));
        assert_eq!(sides.each_ref().map(|value| value + 1), Sides::new(2, 4));
        assert!(sides.any(|value| *value == 3) && !sides.all(|value| *value == 3));
        assert!(Sides::both(7).all(|value| *value == 7));
    }
}
