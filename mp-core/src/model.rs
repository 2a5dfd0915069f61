//! Models of protocols in shared memory, which loom explores in every order of their steps.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-sync --lib --release`. Each model is also run without one thing at
//! a time that the protocol needs (an ordering, a fence, a wake-up), and then has to fail: one that passes in
//! that case would prove nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, Stdio};

use loom::cell::UnsafeCell;

/// In whose name a model is run without something: that site's.
const WITHOUT: &str = "MP_LOOM_WITHOUT";

std::thread_local! {
    // loom runs all threads of a model as coroutines of one thread.
    static MISSING: RefCell<Option<String>> = const { RefCell::new(None) };
    static MET: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
    /// At the how many-th of its steps who is mortal is killed; `None` where nobody is.
    static STEP: Cell<Option<u32>> = const { Cell::new(None) };
    /// Whether somebody came to that step, in any order of things.
    static KILLED: Cell<bool> = const { Cell::new(false) };
}

loom::thread_local! {
    static LIFE: Cell<Life> = Cell::new(Life::Safe);
}

/// Whether a thread of a model can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Safe,
    /// At the step that is so many further on.
    Mortal(u32),
    Dead,
}

/// What unwinds who is killed.
struct Killed;

/// Whether the model runs without what this site does.
#[must_use]
pub fn is_without(site: &'static str) -> bool {
    MET.with_borrow_mut(|met| met.insert(site));
    MISSING.with_borrow(|missing| missing.as_deref() == Some(site))
}

/// What [`crash_point!`](crate::crash_point) comes to: who is mortal can be killed here.
pub fn point() {
    if STEP.get().is_none() {
        return;
    }
    LIFE.with(|life| match life.get() {
        Life::Safe | Life::Dead => {}
        Life::Mortal(0) => {
            life.set(Life::Dead);
            // Not a panic that anybody is told of.
            resume_unwind(Box::new(Killed));
        }
        Life::Mortal(steps) => life.set(Life::Mortal(steps - 1)),
    });
}

/// Whether the calling thread was not killed: destructors that run all the same do nothing then.
#[must_use]
pub fn lives() -> bool {
    STEP.get().is_none() || LIFE.with(|life| life.get() != Life::Dead)
}

/// Whether who is mortal was killed.
#[must_use]
pub fn is_killed() -> bool {
    crate::word::is_killed()
}

/// Does what `body` does, up to the step at which its thread is killed; says whether it came to the end.
///
/// One thread of a model calls this, once, in [`explore_killing`].
///
/// # Panics
///
/// As `body`, and elsewhere.
pub fn mortal(body: impl FnOnce()) -> bool {
    let step = STEP.get().expect("called in explore_killing");
    LIFE.with(|life| life.set(Life::Mortal(step)));
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(()) => {
            LIFE.with(|life| life.set(Life::Safe));
            true
        }
        Err(panic) if panic.is::<Killed>() => {
            KILLED.set(true);
            crate::word::note_kill();
            false
        }
        Err(panic) => resume_unwind(panic),
    }
}

/// As [`explore`], once for each step of who is [`mortal`], with that one killed there. Gives how many steps it has.
///
/// # Panics
///
/// As [`explore`].
pub fn explore_killing(preemptions: usize, model: fn(), needed: &[&'static str]) -> u32 {
    explore_with(preemptions, needed, |builder| {
        for step in 0.. {
            STEP.set(Some(step));
            KILLED.set(false);
            builder.check(model);
            if !KILLED.get() {
                STEP.set(None);
                return step;
            }
        }
        unreachable!("it has an end")
    })
}

/// Explores `model`, then sees it fail without each of `needed`.
///
/// The latter in processes of their own, as a failed model often ends its process (a deadlock is a panic,
/// and what is dropped then panics again).
///
/// # Panics
///
/// Where the model fails, or does not where it should, or never comes by a site that it is said to need.
pub fn explore(preemptions: usize, model: fn(), needed: &[&'static str]) {
    explore_with(preemptions, needed, |builder| builder.check(model));
}

fn explore_with<R>(
    preemptions: usize,
    needed: &[&'static str],
    check: impl Fn(&loom::model::Builder) -> R,
) -> R {
    let missing = std::env::var(WITHOUT).ok();
    let is_whole = missing.is_none();
    MISSING.set(missing);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    let result = check(&builder);
    if !is_whole {
        return result;
    }
    let test = std::thread::current().name().expect("the name of the test").to_owned();
    for site in needed {
        assert!(MET.with_borrow(|met| met.contains(site)), "it never comes by {site}");
        let status = Command::new(std::env::current_exe().expect("a program"))
            .args([&test, "--exact", "--test-threads=1"])
            .env(WITHOUT, site)
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("it starts again");
        assert!(!status.success(), "without {site} the model passes as well");
    }
    result
}

/// What a protocol guards: loom fails where two reach it without order.
#[derive(Debug, Default)]
pub struct Data(UnsafeCell<u32>);

impl Data {
    /// 0.
    #[must_use]
    pub fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    /// Adds one, without being atomic.
    pub fn add(&self) {
        self.0.with_mut(|value| {
            #[expect(unsafe_code, reason = "loom's cell")]
            // SAFETY: what the model is to prove; loom looks whether it is so.
            unsafe {
                *value += 1;
            };
        });
    }

    /// How often that was done.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.with(|value| {
            #[expect(unsafe_code, reason = "loom's cell")]
            // SAFETY: as above.
            unsafe {
                *value
            }
        })
    }
}
