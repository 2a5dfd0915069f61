//! Messages of several types, and the memory that decoding them takes.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// The system's allocator, counting.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes all on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(now, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// For messages that are short: errors with their texts, the first block of a map, elements without bytes.
const SOME: usize = 64 << 10;
/// How many bytes of memory one byte of a message may cost. The worst of the types is 48 bytes long where its
/// message has one, and a vector that grows is there twice and half empty.
const MULTIPLE: usize = 256;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    mp_core::fuzz_decode(bytes);
    let took = MOST.load(Relaxed) - before;
    let limit = SOME + MULTIPLE * bytes.len();
    assert!(took <= limit, "{took} bytes of memory for a message of {}", bytes.len());
    assert_eq!(NOW.load(Relaxed), before, "nothing is left behind");
});
