//! Who goes on with what a closure has captured that a forked child runs.
//!
//! Both processes have it then, and both drop it: the parent at once, the child when it is done. An object whose end
//! concerns others (a connection that is shut down, a file that is removed, a server that is ended) must end once, and
//! that is the child's affair. So the parent [hands it over](hand_over), and the child is told whose
//! [heir](inherit) it is.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

thread_local! {
    static LIVES_ON: Cell<bool> = const { Cell::new(false) };
}

/// Puts the mark back as it was, also after a panic.
struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        LIVES_ON.set(self.0);
    }
}

/// Drops what a child, forked a moment ago, has a copy of and goes on with.
pub fn hand_over<T>(value: T) {
    let _restore = Restore(LIVES_ON.replace(true));
    drop(value);
}

/// Whether what is dropped right now [lives on](hand_over) in a child: then only this process's part of it ends, its
/// descriptors and its memory.
#[must_use]
pub fn lives_on() -> bool {
    LIVES_ON.get()
}

/// Whose heir a process is.
struct Estate {
    /// That process. One forked from it in another way has a copy of this, and another number.
    heir: u32,
    of: Vec<u32>,
}

static ESTATE: Mutex<Option<Estate>> = Mutex::new(None);

/// Makes this process, forked from `parent`, go on with what that had, and with what that went on with.
pub fn inherit(parent: u32) {
    let mut estate = ESTATE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = estate.take().filter(|estate| estate.heir == parent);
    let mut of = before.map(|estate| estate.of).unwrap_or_default();
    of.push(parent);
    *estate = Some(Estate { heir: std::process::id(), of });
}

/// Whether an object that process number `owner` has made is this process's to end: it is that process or its
/// [heir](inherit), and the object does not [live on](lives_on) in a child.
#[must_use]
pub fn is_ours(owner: u32) -> bool {
    if lives_on() {
        return false;
    }
    let us = std::process::id();
    owner == us || {
        let estate = ESTATE.lock().unwrap_or_else(PoisonError::into_inner);
        estate.as_ref().is_some_and(|estate| estate.heir == us && estate.of.contains(&owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    struct Looks<'a>(&'a Cell<Option<bool>>);

    impl Drop for Looks<'_> {
        fn drop(&mut self) {
            self.0.set(Some(is_ours(std::process::id())));
        }
    }

    struct Panics;

    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }

    #[test]
    fn what_is_handed_over_knows_it_and_nothing_else_does() {
        let seen = Cell::new(None);
        hand_over(Looks(&seen));
        assert_eq!(seen.take(), Some(false));
        drop(Looks(&seen));
        assert_eq!(seen.take(), Some(true));
        hand_over(|| ());
        assert!(catch_unwind(AssertUnwindSafe(|| hand_over(Panics))).is_err());
        assert!(!lives_on());
    }

    #[test]
    fn an_heir_inherits_what_its_parent_has_inherited_unless_another_did() {
        let us = std::process::id();
        assert!(is_ours(us) && !is_ours(1));
        *ESTATE.lock().unwrap() = Some(Estate { heir: 7, of: vec![1, 3] });
        // This process is a copy of number 7, which was the heir.
        assert!(!is_ours(1) && !is_ours(7));
        inherit(7);
        assert!(is_ours(1) && is_ours(3) && is_ours(7) && is_ours(us) && !is_ours(2));
        *ESTATE.lock().unwrap() = Some(Estate { heir: 7, of: vec![1, 3] });
        inherit(8);
        assert!(!is_ours(1) && !is_ours(7) && is_ours(8));
        *ESTATE.lock().unwrap() = None;
    }
}
