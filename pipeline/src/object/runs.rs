//! A set of numbers as runs without gaps.
//!
//! Memory: one range of 16 bytes (and its share of a tree) for each run, so numbers in order need one whatever their
//! count. Numbers in order need no tree either: the run that grew last is kept beside it.

use std::collections::BTreeMap;

/// Numbers from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The lowest.
    pub first: u64,
    /// The highest.
    pub last: u64,
}

impl Gap {
    pub(crate) fn count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// A set of numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs {
    /// First to last of each run; runs neither overlap nor touch.
    runs: BTreeMap<u64, u64>,
    /// The run that grew last: also in `runs`, where its end may lag behind.
    current: Option<Gap>,
    /// Where the run that follows it begins.
    following: Option<u64>,
}

impl Runs {
    /// Adds a number; false where it was there.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        if let Some(current) = &mut self.current {
            // Neither in the run that follows nor right before it, where the two would become one.
            let is_free = |following: u64| following - number > 1;
            if current.last.checked_add(1) == Some(number) && self.following.is_none_or(is_free) {
                current.last = number;
                return true;
            }
            if (current.first..=current.last).contains(&number) {
                return false;
            }
        }
        let mut new = true;
        self.insert_range(Gap { first: number, last: number }, |_| new = false);
        new
    }

    /// Adds a range; `there` is told what of it was there, from the right to the left.
    pub(crate) fn insert_range(&mut self, range: Gap, mut there: impl FnMut(Gap)) {
        self.settle();
        let Gap { mut first, mut last } = range;
        // Every run that overlaps or touches, from the right to the left.
        while let Some((&run_first, &run_last)) = self.runs.range(..=last.saturating_add(1)).next_back() {
            if run_last.saturating_add(1) < first {
                break;
            }
            let both = Gap { first: run_first.max(range.first), last: run_last.min(range.last) };
            if both.first <= both.last {
                there(both);
            }
            self.runs.remove(&run_first);
            first = first.min(run_first);
            last = last.max(run_last);
        }
        self.runs.insert(first, last);
        self.current = Some(Gap { first, last });
        self.following = self.runs.range(last..).find(|(run, _)| **run > last).map(|(run, _)| *run);
    }

    /// Fills the lowest gap as if its numbers had been there, and says what it was.
    pub(crate) fn fill_lowest_gap(&mut self) -> Option<Gap> {
        self.settle();
        let mut runs = self.runs.iter();
        let (lowest, next) = (runs.next()?, runs.next()?);
        let gap = Gap { first: lowest.1 + 1, last: next.0 - 1 };
        self.insert_range(gap, |_| {});
        Some(gap)
    }

    /// How many runs there are.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// The runs in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Gap> {
        let current = self.current;
        self.runs.iter().map(move |(&first, &last)| match current {
            Some(current) if current.first == first => current,
            _ => Gap { first, last },
        })
    }

    /// Writes the run that grew last back.
    fn settle(&mut self) {
        if let Some(current) = self.current.take() {
            self.runs.insert(current.first, current.last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lowest_gap_is_given_up() {
        let mut runs = Runs::default();
        for number in [1, 2, 5, 9] {
            assert!(runs.insert(number));
        }
        assert_eq!(runs.fill_lowest_gap(), Some(Gap { first: 3, last: 4 }));
        assert!(!runs.insert(3) && runs.insert(6));
        assert_eq!(runs.iter().collect::<Vec<_>>(), [Gap { first: 1, last: 6 }, Gap { first: 9, last: 9 }]);
        assert_eq!(runs.fill_lowest_gap().map(Gap::count), Some(2));
        assert_eq!((runs.fill_lowest_gap(), runs.len()), (None, 1));
    }

    #[test]
    fn ten_million_numbers_in_order_are_one_run() {
        let mut runs = Runs::default();
        assert!((1..=10_000_000).all(|number| runs.insert(number)));
        assert_eq!(runs.iter().collect::<Vec<_>>(), [Gap { first: 1, last: 10_000_000 }]);
        assert_eq!(runs.len(), 1);
    }

    proptest! {
        #[test]
        fn as_a_set(numbers in proptest::collection::vec(1u64..60, 0..200)) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(runs.insert(number), model.insert(number), "{}", number);
            }
            let flat: Vec<u64> = runs.iter().flat_map(|run| run.first..=run.last).collect();
            prop_assert_eq!(flat, model.into_iter().collect::<Vec<_>>());
            let touching = runs.iter().zip(runs.iter().skip(1)).any(|(a, b)| a.last + 1 >= b.first);
            prop_assert!(!touching);
        }
    }
}
