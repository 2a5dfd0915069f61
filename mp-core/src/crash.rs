//! Places at which a test can have its process killed.
//!
//! A protocol between processes has to bear that one of them dies between any two of its steps. Each step is
//! given a name by [`crash_point!`](crate::crash_point), and tests kill a process at each of them in turn:
//! see `testing::steps`. All of it is there only where the whole build has `RUSTFLAGS="--cfg mp_crash"`;
//! in any other the macro is nothing, not a single instruction.
//!
//! ```
//! use mp_core::crash_point;
//!
//! crash_point!("example: between two steps");
//! ```

/// Names a place at which a test can have this process killed; nothing without `cfg(mp_crash)`.
///
/// In models, by `cfg(mp_loom)`, threads can be killed there.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(mp_crash)]
        $crate::crash::point($name);
        #[cfg(mp_loom)]
        $crate::model::point();
    };
}

#[cfg(mp_crash)]
pub use armed::{arm, arm_stop, point};

#[cfg(mp_crash)]
mod armed {
    use std::sync::Mutex;

    /// Where, the how many-th time from now, and by which signal.
    static ARMED: Mutex<Option<(String, u32, i32)>> = Mutex::new(None);

    /// signal(7).
    const SIGKILL: i32 = 9;
    const SIGSTOP: i32 = 19;

    /// Lets this process be killed the `pass`th time from now that it comes to the place called `name`.
    ///
    /// # Panics
    ///
    /// Where another thread of the process panicked at such a place.
    pub fn arm(name: &str, pass: u32) {
        *ARMED.lock().expect("no panic here") = Some((name.to_owned(), pass, SIGKILL));
    }

    /// As [`arm`], but the process is stopped there.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn arm_stop(name: &str, pass: u32) {
        *ARMED.lock().expect("no panic here") = Some((name.to_owned(), pass, SIGSTOP));
    }

    /// What [`crash_point!`](crate::crash_point) calls.
    ///
    /// # Panics
    ///
    /// As [`arm`].
    pub fn point(name: &str) {
        #[cfg(feature = "testing")]
        crate::testing::steps::point(name);
        let mut armed = ARMED.lock().expect("no panic here");
        let Some((at, passes, signal)) = &mut *armed else { return };
        if at == name {
            *passes -= 1;
            if *passes == 0 {
                if *signal == SIGKILL {
                    crate::sys::process::kill_self();
                }
                *armed = None;
                drop(armed);
                let own = crate::sys::process::pidfd_open(std::process::id());
                let stopped = own.and_then(|own| {
                    crate::sys::process::pidfd_send_signal(std::os::fd::AsFd::as_fd(&own), SIGSTOP)
                });
                stopped.expect("a process can stop itself");
            }
        }
    }
}
