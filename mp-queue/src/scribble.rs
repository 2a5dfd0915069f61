//! A peer that writes anything over a queue: no call may panic, hang, reach out of the segment or do worse
//! than err.
//!
//! The locks stay as they are: what becomes of those that are written over is for mp-sync to test, and a call
//! that waits for one takes time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use mp_core::Deadline;

use crate::blocking::{Batch, Core, Limit};
use crate::commit::MOST;
use crate::slots::{append, units_of};

/// Takes numbers off the front; zeros where it is empty.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let (front, rest) = self.0.split_at(self.0.len().min(N));
        taken[..front.len()].copy_from_slice(front);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
}

/// Writes a word that looks like others, so that it means something more often than not.
fn scribble(core: &Core, script: &mut Script<'_>) {
    let word = core.slots().word_at(script.short());
    let old = word.load(Ordering::Relaxed);
    let new = match script.byte() % 6 {
        0 => u64::from_le_bytes(script.take()),
        1 => u64::from(script.byte()),
        2 => old ^ 1 << (script.byte() % 64),
        3 => old.wrapping_add_signed(i64::from(script.byte().cast_signed())),
        4 => core.slots().word_at(script.short()).load(Ordering::Relaxed),
        // As a header.
        _ => 1 << 63 | u64::from(script.byte()) << 40 | u64::from(script.short()),
    };
    word.store(new, Ordering::Relaxed);
}

/// So few blocks, of which the last two are given back when they were read.
const SIZES: usize = 4;
/// More bytes than they have.
const SIZE: usize = 1 << 20;
static CONTENT: [u8; SIZE] = [0xA5; SIZE];

fn get(core: &Core, max: u64, limit: Limit) {
    let mut batch = Batch::default();
    let result = core.get(max, &mut batch, limit);
    assert!(batch.bytes.len() <= SIZE, "no more than there is room for");
    assert!(batch.ends.len() as u64 <= max);
    assert!(batch.ends.is_sorted());
    match result {
        Ok(()) => assert_eq!(batch.ends.last(), Some(&batch.bytes.len())),
        Err(_) => assert!(batch.ends.is_empty() && batch.fds.is_empty()),
    }
}

/// Makes a queue and does with it what `bytes` say.
pub(crate) fn run_on(bytes: &[u8]) {
    let mut script = Script(bytes);
    let [capacity, max_units] = script.take().map(u64::from);
    let capacity = if capacity == 0 { u64::MAX } else { capacity };
    let max_units = if max_units == 0 { MOST } else { max_units << 8 };
    let mut core = Core::create_sized(SIZES, capacity, max_units).expect("a queue");
    let null = mp_core::sys::fd::null().expect("opens");

    while !script.0.is_empty() {
        let kind = script.byte();
        let limit = if kind < 128 { Limit::Try } else { Limit::Until(Deadline::PASSED) };
        match kind % 16 {
            0..4 => scribble(&core, &mut script),
            4 | 5 => {
                let _ = core.put(&CONTENT[..script.byte().into()], &[], limit);
            }
            6 => {
                let len = usize::from(script.short()) * 8;
                let _ = core.put(&CONTENT[..len], &[], limit);
            }
            7 => {
                let fds = (0..1 + script.byte() % 3).map(|_| null.try_clone().expect("room"));
                let fds: Vec<OwnedFd> = fds.collect();
                let _ = core.put(&CONTENT[..script.byte().into()], &fds, limit);
            }
            8 => {
                let (mut row, mut units) = (Vec::new(), Vec::new());
                for _ in 0..1 + script.byte() % 20 {
                    let len = script.short().into();
                    if core.check_size(len, 0).is_ok() {
                        append(&CONTENT[..len], &mut row);
                        units.push(units_of(len, false));
                    }
                }
                if !units.is_empty() {
                    let _ = core.put_row(&row, &units, limit);
                }
            }
            9 | 10 => get(&core, 1, limit),
            11 => get(&core, u64::from(script.byte()).max(1), limit),
            12 => core.repair_both(),
            13 => {
                let _ = (core.task_done(), core.join(Limit::Until(Deadline::PASSED)));
                let _ = (core.len(), core.unfinished(), core.is_full());
            }
            14 => {
                let [segment, near, far] =
                    core.fds().map(|fd| fd.try_clone_to_owned().expect("room"));
                if let Ok(received) = Core::over(segment, near, far, 0, true) {
                    core = received;
                }
            }
            _ if kind < 128 => drop(core.readiness().as_fd()),
            _ => core.close(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_item_with_descriptors_is_refused_where_a_peer_left_no_room_at_all() {
        let core = Core::create_sized(SIZES, u64::MAX, MOST).unwrap();
        // The third word, behind the blocks' places: how many units there may be.
        let max_units = core.slots().word_at(u16::from_le_bytes([2, u8::MAX]));
        assert_eq!(max_units.swap(0, Ordering::Relaxed), MOST);
        let [segment, near, far] = core.fds().map(|fd| fd.try_clone_to_owned().unwrap());
        let core = Core::over(segment, near, far, 0, true).unwrap();
        let null = mp_core::sys::fd::null().unwrap();
        let error = core.put(b"", &[null], Limit::Try).unwrap_err();
        assert!(matches!(error, crate::Error::Full), "{error}");
    }

    proptest! {
        #[test]
        fn any_calls_on_a_queue_that_was_scribbled_on_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            run_on(&bytes);
        }
    }
}
