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

/// How many chunks of `chunk` items there are.
pub(crate) fn count(len: usize, chunk: usize) -> usize {
    len.div_ceil(chunk.max(1))
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
            let count = count(len, chunk);
            prop_assert!(count * chunk >= len);
            prop_assert!(len == 0 || (count - 1) * chunk < len);
        }
    }
}
