//! A bounded queue in shared memory for many producers and many consumers: one sequence number per slot
//! (Vyukov's).

use std::sync::atomic::{AtomicU64, Ordering};

use super::shared::{Bed, Wait, shared};

#[repr(C, align(128))]
struct Counter(AtomicU64);

#[repr(C)]
struct Header {
    put: Counter,
    got: Counter,
    consumers: Bed,
    producers: Bed,
}

#[derive(Clone, Copy)]
pub struct Mpmc {
    header: &'static Header,
    slots: *mut u8,
    stride: usize,
    size: usize,
    count: u64,
    wait: Wait,
}

impl Mpmc {
    /// A queue of `count` items of `size` bytes, which forked children share. The count is a power of two.
    pub fn new(count: u64, size: usize, wait: Wait) -> Self {
        assert!(count.is_power_of_two());
        let stride = (8 + size).next_multiple_of(8);
        let address = shared(4096 + stride * count as usize);
        // SAFETY: the mapping begins with a page of zeros, which is a header, and stays.
        let header = unsafe { &*address.cast::<Header>() };
        // SAFETY: the slots follow in the same mapping.
        let slots = unsafe { address.add(4096) };
        let queue = Self { header, slots, stride, size, count, wait };
        for index in 0..count {
            queue.slot(index).0.store(index, Ordering::Relaxed);
        }
        queue
    }

    /// The sequence number of a slot, and its bytes.
    #[inline(always)]
    fn slot(&self, position: u64) -> (&'static AtomicU64, *mut u8) {
        let index = (position & (self.count - 1)) as usize;
        // SAFETY: below the count.
        let slot = unsafe { self.slots.add(index * self.stride) };
        // SAFETY: each slot begins with its sequence number, aligned, in a mapping that stays; then its bytes.
        unsafe { (&*slot.cast::<AtomicU64>(), slot.add(8)) }
    }

    /// Claims a position of `counter` whose slot has that sequence number plus `lag`, or none where there is none.
    #[inline(always)]
    fn claim(&self, counter: &AtomicU64, lag: u64) -> Option<u64> {
        let mut position = counter.load(Ordering::Relaxed);
        loop {
            let sequence = self.slot(position).0.load(Ordering::Acquire);
            match sequence.wrapping_sub(position + lag).cast_signed() {
                0 => {
                    let next = position + 1;
                    let (set, failed) = (Ordering::Relaxed, Ordering::Relaxed);
                    match counter.compare_exchange_weak(position, next, set, failed) {
                        Ok(_) => return Some(position),
                        Err(now) => position = now,
                    }
                }
                behind if behind < 0 => return None,
                _ => position = counter.load(Ordering::Relaxed),
            }
        }
    }

    #[inline(always)]
    pub fn put(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.size);
        let mut position = self.claim(&self.header.put.0, 0);
        if position.is_none() {
            self.header.producers.wait_until(self.wait, || {
                position = self.claim(&self.header.put.0, 0);
                position.is_some()
            });
        }
        let position = position.expect("claimed");
        let (sequence, slot) = self.slot(position);
        // SAFETY: claimed, so ours until the number is stored; size bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), slot, bytes.len()) };
        sequence.store(position + 1, Ordering::Release);
        self.header.consumers.wake(self.wait);
    }

    #[inline(always)]
    pub fn get(&self, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), self.size);
        let mut position = self.claim(&self.header.got.0, 1);
        if position.is_none() {
            self.header.consumers.wait_until(self.wait, || {
                position = self.claim(&self.header.got.0, 1);
                position.is_some()
            });
        }
        let position = position.expect("claimed");
        let (sequence, slot) = self.slot(position);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(slot, bytes.as_mut_ptr(), bytes.len()) };
        sequence.store(position + self.count, Ordering::Release);
        self.header.producers.wake(self.wait);
    }
}
