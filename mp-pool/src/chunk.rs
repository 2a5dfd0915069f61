//! How an input is cut into chunks. Arithmetic only.

/// Chunks hold no more than so many bytes of arguments or results, if the library chooses: what a ring takes in one
/// piece, and what stays in a processor's cache on its way from hand to hand.
const BYTES: usize = 32 << 10;

/// Chunks for each worker, if the library chooses: so that none is idle long while another has its last one.
const EACH: usize = 4;

/// How many items a chunk has if the caller does not say, for `len` items that are, with their results, no larger
/// than `size` in memory. Never zero.
pub(crate) fn default_size(len: usize, workers: usize, size: usize) -> usize {
    let even = len.div_ceil(EACH.saturating_mul(workers).max(1));
    even.min(BYTES / size.max(1)).max(1)
}

/// How many items the next chunk has.
#[derive(Debug)]
pub(crate) struct Next {
    most: usize,
    items: usize,
    is_fixed: bool,
}

impl Next {
    /// As many each time.
    pub(crate) fn fixed(items: usize) -> Self {
        Self { most: items, items, is_fixed: true }
    }

    /// No more than so many, and no more than are short once they are encoded. Of items which may have memory elsewhere the
    /// first goes alone: it tells how long they are.
    pub(crate) fn up_to<A>(most: usize) -> Self {
        let items = if std::mem::needs_drop::<A>() { 1 } else { most };
        Self { most, items, is_fixed: false }
    }

    pub(crate) fn items(&self) -> usize {
        self.items
    }

    /// So many items took so many bytes: those that follow will be alike.
    pub(crate) fn took(&mut self, items: usize, bytes: usize) {
        if !self.is_fixed {
            let each = bytes.div_ceil(items.max(1)).max(1);
            self.items = self.most.min(BYTES / each).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_python_where_chunks_are_small() {
        assert_eq!(default_size(100, 2, 8), 13);
        assert_eq!(default_size(0, 2, 8), 1);
        assert_eq!(default_size(3, 2, 0), 1);
        assert_eq!(default_size(1_000_000, 2, 8), 4096);
        assert_eq!(default_size(10, 1, usize::MAX), 1);
    }

    proptest! {
        #[test]
        fn chunks_cover_all_and_keep_within_their_bounds(
            len in 0..10_000_000_usize,
            workers in 1..1000_usize,
            size in 0..100_000_usize,
        ) {
            let chunk = default_size(len, workers, size);
            prop_assert!(chunk >= 1);
            prop_assert!(chunk == 1 || chunk * size <= BYTES);
            let count = len.div_ceil(chunk);
            prop_assert!(count * chunk >= len);
            prop_assert!(len == 0 || (count - 1) * chunk < len);
        }
    }

    #[test]
    fn chunks_of_long_items_are_short() {
        let mut next = Next::up_to::<String>(100);
        assert_eq!(next.items(), 1);
        next.took(1, 10_000);
        assert_eq!(next.items(), 3);
        next.took(3, 1_000_000);
        assert_eq!(next.items(), 1);
        next.took(1, 0);
        assert_eq!(next.items(), 100);
        assert_eq!(Next::up_to::<u64>(100).items(), 100);
        let mut fixed = Next::fixed(100);
        fixed.took(100, 10_000_000);
        assert_eq!(fixed.items(), 100);
    }
}
