//! The words of an RLock.

use mp_core::crash_point;

use super::lock::{LockWord, Refused};
use crate::Acquired;
use crate::patience::Limit;
use mp_core::word::{AtomicU32, Ordering};

type Result<T> = std::result::Result<T, Refused>;

/// A lock word, and how often its owner has taken it.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RLockWords {
    pub(crate) word: LockWord,
    /// How often the owner has to release it. Only the owner reads or writes it, and the first taking
    /// sets it whatever it was, so what a dead owner left there means nothing. Relaxed: it moves with
    /// the word.
    depth: AtomicU32,
    reserved: AtomicU32,
}

impl RLockWords {
    #[cfg(any(test, mp_loom))]
    pub(crate) fn new() -> Self {
        Self { word: LockWord::new(), depth: AtomicU32::new(0), reserved: AtomicU32::new(0) }
    }

    /// Takes it, or takes it once more. Errors: `WouldBlock`, `TimedOut`, `TooDeep`.
    #[inline]
    pub(crate) fn lock(&self, me: u64, limit: Limit) -> Result<Acquired> {
        match self.word.lock(me, limit) {
            Ok(news) => {
                crash_point!("rlock: its depth is not set yet");
                self.depth.store(1, Ordering::Relaxed);
                Ok(news)
            }
            Err(Refused::Deadlock) => {
                let depth = self.depth.load(Ordering::Relaxed);
                let deeper = depth.checked_add(1).ok_or(Refused::TooDeep)?;
                self.depth.store(deeper, Ordering::Relaxed);
                crash_point!("rlock: one deeper");
                Ok(Acquired::Clean)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives back one taking; the last frees it. Errors: `NotOwner`.
    #[inline]
    pub(crate) fn unlock(&self, me: u64) -> Result<()> {
        // Another owner's, perhaps: then what follows finds out.
        let depth = self.depth.load(Ordering::Relaxed);
        if depth <= 1 {
            return self.word.unlock(me);
        }
        if self.word.owner() != me {
            return Err(Refused::NotOwner);
        }
        self.depth.store(depth - 1, Ordering::Relaxed);
        crash_point!("rlock: one less deep");
        Ok(())
    }

    /// How often `me` has taken it.
    pub(crate) fn depth(&self, me: u64) -> u32 {
        if self.word.owner() == me { self.depth.load(Ordering::Relaxed).max(1) } else { 0 }
    }

    /// Gives back all takings at once and says how many. Errors: `NotOwner`.
    pub(crate) fn unlock_all(&self, me: u64) -> Result<u32> {
        let depth = self.depth(me);
        self.word.unlock(me)?;
        Ok(depth)
    }

    /// Takes it as often as [`unlock_all`](Self::unlock_all) said.
    pub(crate) fn lock_all(&self, me: u64, depth: u32) -> Result<Acquired> {
        let news = self.word.lock(me, Limit::Forever)?;
        crash_point!("rlock: its depth is not set again yet");
        self.depth.store(depth, Ordering::Relaxed);
        Ok(news)
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Lock(usize),
        Unlock(usize),
        Suspend(usize),
        Resume(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        (0..4, 0..3_usize).prop_map(|(kind, who)| match kind {
            0 => Step::Lock(who),
            1 => Step::Unlock(who),
            2 => Step::Suspend(who),
            _ => Step::Resume(who),
        })
    }

    proptest! {
        /// Three threads, of which the model knows who has it and how deep.
        #[test]
        fn it_does_as_a_counter_with_an_owner(steps in proptest::collection::vec(step(), 1..80)) {
            // Names of threads that live: this one, and this one under other programs' bits unknown.
            let me = crate::owner::me();
            let tid = me & ((1 << 22) - 1);
            let names = [me, tid, tid | me & (u64::MAX << 40)];
            let words = RLockWords::new();
            let mut model: Option<(usize, u32)> = None;
            let mut suspended: [Option<u32>; 3] = [None; 3];
            for step in steps {
                match step {
                    Step::Lock(who) => {
                        let result = words.lock(names[who], Limit::Try);
                        match &mut model {
                            None => {
                                prop_assert!(matches!(result, Ok(Acquired::Clean)));
                                model = Some((who, 1));
                            }
                            Some((owner, depth)) if *owner == who => {
                                prop_assert!(matches!(result, Ok(Acquired::Clean)));
                                *depth += 1;
                            }
                            Some(_) => prop_assert!(matches!(result, Err(Refused::WouldBlock))),
                        }
                    }
                    Step::Unlock(who) => {
                        let result = words.unlock(names[who]);
                        match model {
                            Some((owner, depth)) if owner == who => {
                                prop_assert!(result.is_ok());
                                model = (depth > 1).then_some((who, depth - 1));
                            }
                            _ => prop_assert!(matches!(result, Err(Refused::NotOwner))),
                        }
                    }
                    Step::Suspend(who) => match model {
                        Some((owner, depth)) if owner == who => {
                            prop_assert_eq!(words.unlock_all(names[who]).unwrap(), depth);
                            suspended[who] = Some(depth);
                            model = None;
                        }
                        _ => prop_assert!(words.unlock_all(names[who]).is_err()),
                    },
                    Step::Resume(who) => {
                        if model.is_none() && let Some(depth) = suspended[who].take() {
                            words.lock_all(names[who], depth).unwrap();
                            model = Some((who, depth));
                        }
                    }
                }
                for (who, &name) in names.iter().enumerate() {
                    let depth = model.filter(|&(owner, _)| owner == who).map_or(0, |(_, depth)| depth);
                    prop_assert_eq!(words.depth(name), depth);
                }
            }
        }
    }
}
