//! Models of protocols in shared memory, which loom explores in every order of their steps.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-sync --lib --release`. Each model is also run without one thing at
//! a time that the protocol needs (an ordering, a fence, a wake-up), and then has to fail: one that passes in
//! that case would prove nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use loom::cell::UnsafeCell;

/// In whose name a model is run without something: that site's.
const WITHOUT: &str = "MP_LOOM_WITHOUT";

std::thread_local! {
    // loom runs all threads of a model as coroutines of one thread.
    static MISSING: RefCell<Option<String>> = const { RefCell::new(None) };
    static MET: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
}

/// Whether the model runs without what this site does.
#[must_use]
pub fn is_without(site: &'static str) -> bool {
    MET.with_borrow_mut(|met| met.insert(site));
    MISSING.with_borrow(|missing| missing.as_deref() == Some(site))
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
    let missing = std::env::var(WITHOUT).ok();
    let is_whole = missing.is_none();
    MISSING.set(missing);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(model);
    if !is_whole {
        return;
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
