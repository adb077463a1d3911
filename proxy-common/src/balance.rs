//! Which worker serves a new connection.

/// Connections by which workers may differ in any case: moving one to another thread costs more than it gains then.
const SLACK: usize = 2;
/// And what they may differ by, as a part of the smaller number.
const PART: usize = 8;

/// The worker that serves a connection which the kernel gave to worker `own`; `loads` are the connections that each has.
/// The kernel spreads connections by a hash of their addresses, which is even for thousands and not for dozens.
#[must_use]
pub fn worker(own: usize, loads: impl IntoIterator<Item = usize>) -> usize {
    let mut least = (own, usize::MAX);
    let mut here = 0;
    for (worker, load) in loads.into_iter().enumerate() {
        if worker == own {
            here = load;
        }
        if load < least.1 {
            least = (worker, load);
        }
    }
    let (other, load) = least;
    if here > load.saturating_add(SLACK + load / PART) { other } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_load_stays_where_it_is() {
        assert_eq!(worker(0, [0, 0]), 0);
        assert_eq!(worker(1, [0, 2]), 1);
        assert_eq!(worker(0, [900, 800]), 0);
        assert_eq!(worker(0, [7]), 0);
        assert_eq!(worker(3, []), 3);
    }

    #[test]
    fn an_uneven_load_goes_to_the_worker_with_the_least() {
        assert_eq!(worker(1, [0, 3]), 0);
        assert_eq!(worker(0, [9, 3, 2, 4]), 2);
        assert_eq!(worker(0, [903, 800]), 1);
    }

    #[test]
    fn whatever_the_kernel_does_the_loads_end_near_each_other() {
        let mut loads = [0_usize; 4];
        for _ in 0..64 {
            let chosen = worker(0, loads);
            loads[chosen] += 1;
        }
        assert!(loads.iter().all(|load| (12..=20).contains(load)), "{loads:?}");
    }
}
