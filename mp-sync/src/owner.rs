//! Who holds something, in 64 bits that name a thread for good, and whether that thread still runs.

use std::cell::Cell;
use std::time::Duration;

use mp_core::sys::clock::monotonic_nanos;

/// The bits of a word that name its owner; the other two are its protocol's.
///
/// | bits | content |
/// | --- | --- |
/// | 0..22 | the owner's thread number; the kernel's largest is 2^22. 0: no owner |
/// | 22..30, 32..40 | which program it runs: 16 bits of where its stack begins, random for each `exec` |
/// | 30, 31 | flags of the word's protocol |
/// | 40..64 | when the thread was started, in clock ticks since boot (it wraps after 46 hours) |
///
/// Number and start time name one thread: for another to have both, it would have to get the number within one
/// tick, or within just that tick 46 hours later, or a multiple of that. The program is there because `exec` keeps both:
/// one in 65,536 begins where the one before it did, or each, where the system does not place stacks at random.
pub(crate) const OWNER: u64 = !(FLAG_A | FLAG_B);
/// The first bit that is free for a protocol's own use, in the half that a futex compares.
pub(crate) const FLAG_A: u64 = 1 << 31;
/// The second.
pub(crate) const FLAG_B: u64 = 1 << 30;

const TID_BITS: u32 = 22;
const START_BITS: u32 = 24;

/// Whom `word` names; 0 for nobody.
#[inline]
pub(crate) fn of(word: u64) -> u64 {
    word & OWNER
}

/// A thread that was seen to live is taken to live for as long before it is looked up again, where the
/// caller does not wait: a lookup takes some 6 us.
const TRUSTED: Duration = Duration::from_micros(100);

std::thread_local! {
    /// This thread's name, 0 before it was asked for. No destructor, so guards can be dropped during a
    /// thread's end too.
    static ME: Cell<u64> = const { Cell::new(0) };
    /// The last owner that was seen to live, and when.
    static SEEN: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// The calling thread's name.
#[inline]
pub(crate) fn me() -> u64 {
    let me = ME.get();
    if me != 0 { me } else { find_me() }
}

/// Whether `name` is the calling thread's. What a guard was taken under is not that of a forked child that inherited
/// the guard, whatever the child holds itself.
#[inline]
pub(crate) fn is_me(name: u64) -> bool {
    name == me()
}

#[cold]
fn find_me() -> u64 {
    imp::forget_in_children();
    let me = imp::name_of_this_thread();
    ME.set(me);
    me
}

/// In a forked child, where the forking thread is the only one: it is another thread now.
extern "C" fn forget() {
    ME.set(0);
}

/// Whether the owner that `word` names has ended and will never run again. When in doubt it lives.
pub(crate) fn is_dead(word: u64) -> bool {
    let owner = of(word);
    let dead = imp::is_dead(owner);
    if !dead {
        SEEN.set((owner, monotonic_nanos()));
    }
    dead
}

/// As [`is_dead`], but may take an owner to live that did 0.1 ms ago, so that it can be asked often.
pub(crate) fn is_dead_lately(word: u64) -> bool {
    let (owner, when) = SEEN.get();
    // In a model there is no time, and one thread that plays them all.
    let fresh =
        !cfg!(mp_loom) && monotonic_nanos().saturating_sub(when) < TRUSTED.as_nanos() as u64;
    !(fresh && owner == of(word)) && is_dead(word)
}

#[cfg(not(mp_loom))]
mod imp {
    use std::io;
    use std::sync::Once;

    use mp_core::sys::thread::{self, Stat};

    use super::{START_BITS, TID_BITS, of};

    const TID: u64 = (1 << TID_BITS) - 1;
    const PROGRAM: u64 = 0xFF << TID_BITS | 0xFF << 32;

    pub(super) fn forget_in_children() {
        static ONCE: Once = Once::new();
        // Out of memory for one entry: then fork will hardly succeed either.
        ONCE.call_once(|| {
            let _ = thread::in_forked_child(super::forget);
        });
    }

    pub(super) fn name_of_this_thread() -> u64 {
        let tid = thread::current();
        // Without /proc, or without a descriptor left to read it, the number alone has to do: then a
        // successor of the same number passes for this thread.
        thread::stat(tid).map_or(u64::from(tid) & TID, |stat| name(tid, &stat))
    }

    fn name(tid: u32, stat: &Stat) -> u64 {
        u64::from(tid) & TID | program(stat) | (stat.start << (64 - START_BITS))
    }

    fn program(stat: &Stat) -> u64 {
        // 0 is kept for "not known"; the stack begins at a multiple of 16.
        let hash = (stat.stack >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
        let hash = hash.max(1);
        (hash & 0xFF) << TID_BITS | (hash >> 8) << 32
    }

    pub(super) fn is_dead(owner: u64) -> bool {
        let tid = (owner & TID) as u32;
        if !thread::exists(tid) {
            return true;
        }
        let stat = match thread::stat(tid) {
            Ok(stat) => stat,
            // It is gone by now, or /proc is not there or not readable: ask once more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return !thread::exists(tid),
            // No descriptor is left, most likely. Then its end is seen all the same, though not that its
            // number is another's by now.
            Err(_) => return thread::has_no_program(tid),
        };
        if stat.ended {
            return true;
        }
        if owner & !TID == 0 {
            return false; // It could not look itself up.
        }
        let now = of(name(tid, &stat));
        let compared = if stat.stack == 0 || owner & PROGRAM == 0 { !PROGRAM } else { !0 };
        now & compared != owner & compared
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_successor_of_the_same_number_is_somebody_else() {
            let tid = thread::current();
            let stat = thread::stat(tid).unwrap();
            let own = name(tid, &stat);
            assert_eq!(of(own), own, "flags are left alone");
            assert!(!is_dead(own));
            assert!(is_dead(name(tid, &Stat { start: stat.start + 1, ..stat })));
            let programs =
                (1..10_000).map(|n| name(tid, &Stat { stack: stat.stack + n * 16, ..stat }));
            let taken_for_it = programs.filter(|&other| !is_dead(other)).count();
            assert!(taken_for_it < 5, "{taken_for_it}");
            assert!(!is_dead(name(tid, &stat) & !PROGRAM), "which program is not known");
            assert!(!is_dead(u64::from(tid)), "only the number is known");
        }

        #[test]
        fn what_no_thread_can_be_is_dead() {
            assert!(is_dead(0));
            assert!(is_dead(TID));
            assert!(is_dead(super::super::OWNER));
            assert!(is_dead(7 << 32));
        }
    }
}

#[cfg(mp_loom)]
mod imp {
    /// In a model, a name with this bit is that of a thread that died.
    const DEAD: u64 = 1 << 20;
    /// With this one, that of one that can be killed.
    const MORTAL: u64 = 1 << 19;

    pub(super) fn forget_in_children() {
        let _ = (super::TID_BITS, super::START_BITS, super::forget as extern "C" fn());
    }

    pub(super) fn name_of_this_thread() -> u64 {
        unreachable!("models name their threads")
    }

    pub(super) fn is_dead(owner: u64) -> bool {
        owner & DEAD != 0 || owner & MORTAL != 0 && mp_core::model::is_killed()
    }
}
