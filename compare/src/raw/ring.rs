//! A ring of bytes in shared memory, from one writer to one reader.

use std::sync::atomic::{AtomicU64, Ordering};

use super::shared::{Bed, Wait, shared};

/// Bytes are published in pieces of this size at most, so that both sides of a large message copy at once.
const PIECE: usize = 32 << 10;

#[repr(C, align(128))]
struct Counter(AtomicU64);

#[repr(C)]
struct Header {
    /// Bytes ever written. Stored by the writer with release, loaded by the reader with acquire.
    tail: Counter,
    /// Bytes ever read: the other way round.
    head: Counter,
    reader: Bed,
    writer: Bed,
}

#[derive(Clone, Copy)]
pub struct Ring {
    header: &'static Header,
    data: *mut u8,
    capacity: usize,
    wait: Wait,
}

// SAFETY: the pointer is to a mapping that stays; one writer and one reader is the caller's duty.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring that forked children share. The capacity is a power of two.
    pub fn new(capacity: usize, wait: Wait) -> Self {
        assert!(capacity.is_power_of_two());
        let address = shared(4096 + capacity);
        // SAFETY: the mapping begins with a page of zeros, which is a header, and stays.
        let header = unsafe { &*address.cast::<Header>() };
        // SAFETY: the data follow in the same mapping.
        Self { header, data: unsafe { address.add(4096) }, capacity, wait }
    }

    pub fn writer(self) -> Writer {
        Writer { ring: self, tail: 0, head: 0 }
    }

    pub fn reader(self) -> Reader {
        Reader { ring: self, head: 0, tail: 0 }
    }

    #[inline(always)]
    fn at(&self, count: u64) -> *mut u8 {
        // SAFETY: masked to the capacity.
        unsafe { self.data.add(count as usize & (self.capacity - 1)) }
    }

    #[inline(always)]
    fn room_before_end(&self, count: u64) -> usize {
        self.capacity - (count as usize & (self.capacity - 1))
    }
}

pub struct Writer {
    ring: Ring,
    tail: u64,
    /// The reader's counter when last seen.
    head: u64,
}

impl Writer {
    /// Waits for `len` free bytes and gives how many there are.
    #[inline(always)]
    fn reserve(&mut self, len: usize) -> usize {
        let Ring { header, capacity, wait, .. } = self.ring;
        let free = |head: u64, tail: u64| capacity - (tail - head) as usize;
        if free(self.head, self.tail) < len {
            self.head = header.head.0.load(Ordering::Acquire);
            if free(self.head, self.tail) < len {
                header.writer.wait_until(wait, || {
                    self.head = header.head.0.load(Ordering::Acquire);
                    free(self.head, self.tail) >= len
                });
            }
        }
        free(self.head, self.tail)
    }

    #[inline(always)]
    fn publish(&mut self, len: usize) {
        self.tail += len as u64;
        self.ring.header.tail.0.store(self.tail, Ordering::Release);
        self.ring.header.reader.wake(self.ring.wait);
    }

    #[inline(always)]
    pub fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let free = self.reserve(bytes.len().min(PIECE));
            let len = bytes.len().min(free).min(self.ring.room_before_end(self.tail)).min(PIECE);
            let (now, later) = bytes.split_at(len);
            // SAFETY: so many bytes are free up to the end of the ring, and the reader leaves them alone.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), self.ring.at(self.tail), len) };
            self.publish(len);
            bytes = later;
        }
    }

    #[inline(always)]
    pub fn write_word(&mut self, word: u64) {
        self.reserve(8);
        // SAFETY: as above; all messages of this ring are words, so this one is aligned and whole.
        unsafe { self.ring.at(self.tail).cast::<u64>().write(word) };
        self.publish(8);
    }

    /// Lets `fill` write `len` bytes in place. The capacity is a multiple of `len`.
    pub fn write_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        self.reserve(len);
        // SAFETY: as above; a message never wraps.
        fill(unsafe { std::slice::from_raw_parts_mut(self.ring.at(self.tail), len) });
        self.publish(len);
    }
}

pub struct Reader {
    ring: Ring,
    head: u64,
    /// The writer's counter when last seen.
    tail: u64,
}

impl Reader {
    /// Waits for `len` bytes and gives how many there are.
    #[inline(always)]
    fn available(&mut self, len: usize) -> usize {
        let Ring { header, wait, .. } = self.ring;
        if ((self.tail - self.head) as usize) < len {
            self.tail = header.tail.0.load(Ordering::Acquire);
            if ((self.tail - self.head) as usize) < len {
                header.reader.wait_until(wait, || {
                    self.tail = header.tail.0.load(Ordering::Acquire);
                    (self.tail - self.head) as usize >= len
                });
            }
        }
        (self.tail - self.head) as usize
    }

    /// Whether there is something to read.
    pub fn is_ready(&mut self) -> bool {
        self.tail = self.ring.header.tail.0.load(Ordering::Acquire);
        self.tail != self.head
    }

    #[inline(always)]
    fn release(&mut self, len: usize) {
        self.head += len as u64;
        self.ring.header.head.0.store(self.head, Ordering::Release);
        self.ring.header.writer.wake(self.ring.wait);
    }

    #[inline(always)]
    pub fn read(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let available = self.available(bytes.len().min(PIECE));
            let len =
                bytes.len().min(available).min(self.ring.room_before_end(self.head)).min(PIECE);
            let (now, later) = bytes.split_at_mut(len);
            // SAFETY: so many bytes were published, and the writer leaves them alone.
            unsafe {
                std::ptr::copy_nonoverlapping(self.ring.at(self.head), now.as_mut_ptr(), len)
            };
            self.release(len);
            bytes = later;
        }
    }

    #[inline(always)]
    pub fn read_word(&mut self) -> u64 {
        self.available(8);
        // SAFETY: as above; all messages of this ring are words.
        let word = unsafe { self.ring.at(self.head).cast::<u64>().read() };
        self.release(8);
        word
    }

    /// Lets `look` read `len` bytes in place. The capacity is a multiple of `len`.
    pub fn read_with<R>(&mut self, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        self.available(len);
        // SAFETY: as above; a message never wraps.
        let result = look(unsafe { std::slice::from_raw_parts(self.ring.at(self.head), len) });
        self.release(len);
        result
    }
}
