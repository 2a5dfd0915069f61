//! Processes that run a Rust function and give back what it returns, as Python's
//! `multiprocessing.Process` does.
//!
//! ```standalone_crate
//! use mp_process::Process;
//!
//! fn task(name: String) -> usize {
//!     println!("{name} is running in process {}", std::process::id());
//!     name.len()
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mp_process::init(); // the first line of main
//!     let child = Process::new(task, ("p1".to_string(),)).start()?;
//!     assert_eq!(child.result()?, 2);
//!     Ok(())
//! }
//! ```
//!
//! A process shares nothing with the one that started it: it may crash, leak, lock up or be killed, and its
//! parent goes on. That is why one starts one; for speed alone threads are cheaper.
//!
//! # By task
//!
//! | To | Use |
//! | --- | --- |
//! | run a function in a process | [`Process::new`], [`Process::start`] |
//! | run a value that knows what to do | [`Process::of`], [`Run`] |
//! | run a closure with what it captures | [`Process::fork`] |
//! | get what it returned, or its panic | [`Child::result`] |
//! | wait for its end, with a limit | [`AnyChild::join`], [`AnyChild::join_timeout`] |
//! | end it | [`AnyChild::terminate`], [`AnyChild::kill`] |
//! | have it end with this program | [`Process::daemon`] |
//! | choose how it is started | [`StartMethod`], [`Process::start_method`], [`set_start_method`] |
//! | learn where one is | [`current_process`], [`parent_process`], [`active_children`] |
//! | call functions in a process that runs already, as a pool does | [`Function`] |
//! | be ready to be re-executed | [`init`], [`test_support!`] |
//!
//! # What runs, and how it gets there
//!
//! A target is a function by its name or a closure without captures. What travels is its address in the
//! program, and parent and child are the same program, which is checked; no macro and no registry is
//! needed. Arguments and results are serde values in which handles may stand anywhere ([`mp_core::Fd`], and
//! those of the crates above). Both travel apart from the child's standard streams, and a child never waits
//! for its parent to read a result.
//!
//! When the target returns, what it wrote to standard output is flushed, the child's own children are ended or joined as
//! at the end of a program, and the child ends by `_exit`: handlers of exit (`atexit`) and destructors of the main
//! thread's locals do not run. After [`std::process::exit`] they do.
//!
//! # What differs from Python
//!
//! - `start` returns once the child is about to run its target, or says why it will not.
//! - A process has a result, and a panic's message reaches the parent.
//! - Daemons end also when their parent is killed.
//! - The end of the program terminates daemons and joins the other children, as in Python, detached ones
//!   included; a daemon that does not heed SIGTERM is killed after 5 s. One that this process may not signal any
//!   more, as it has dropped its privileges, ends with this process.
//! - A child's standard input is empty, and of its parent's descriptors it has only those in its arguments,
//!   under all start methods. In a child signals do what they do by default and none is blocked, whatever the
//!   parent does with them; only faults are handled as in the parent under `Fork`, SIGPIPE is ignored, and
//!   those of terminals are where the parent ignores them (SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGTTIN,
//!   SIGTTOU). Under `Fork` the other descriptors are `/dev/null` there, so that what the parent's objects
//!   believe to own is never somebody else's.
//!
//! # Limits
//!
//! Linux 5.4 or newer, with `/proc` mounted. A process forked behind this crate's back (`libc::fork`) has
//! none of its parent's children, and where the target of a child goes on there, what it returns is not
//! reported. A program that reaps any child it finds (`wait(-1)`), or ignores SIGCHLD, may leave the exit
//! code of a `Spawn` or `Fork` child unknown; results still arrive.

mod boot;
mod child;
mod current;
mod entry;
mod error;
mod family;
mod function;
mod process;
mod protocol;
mod start;
mod sync;
mod target;

pub use boot::init;
pub use child::{AnyChild, Child};
pub use current::{CurrentProcess, ParentProcess, cpu_count, current_process, parent_process};
pub use entry::build_id;
pub use error::{Error, ExitStatus, ProcessError, Result};
pub use family::{active_children, ends_seen};
pub use function::{Convention, Function};
pub use process::Process;
pub use start::{StartMethod, set_start_method, start_method};
pub use target::{Args, Run, Target};

/// Reads any bytes as what processes say to each other around a start.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_start(bytes: &[u8]) {
    protocol::run_on(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_traits() {
        fn is_send_and_sync<T: Send + Sync>() {}
        // A handle may be used by any thread, whatever the result is.
        is_send_and_sync::<Child<std::rc::Rc<()>>>();
        is_send_and_sync::<AnyChild>();
        is_send_and_sync::<CurrentProcess>();
        is_send_and_sync::<ParentProcess>();
        is_send_and_sync::<Error>();
        is_send_and_sync::<ProcessError>();
        is_send_and_sync::<ExitStatus>();
        is_send_and_sync::<StartMethod>();
        is_send_and_sync::<Function>();
    }

    /// What fuzzing kept, which the packaged crate does not have.
    #[test]
    fn inputs_that_fuzzing_kept_do_no_harm() {
        let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        if !kept.is_dir() {
            println!("nothing to replay: there is no {}", kept.display());
            return;
        }
        let replay = |target: &str, run_on: fn(&[u8])| {
            let inputs = std::fs::read_dir(kept.join(target)).unwrap();
            let paths: Vec<_> = inputs.map(|input| input.unwrap().path()).collect();
            assert!(!paths.is_empty(), "{target} has no inputs");
            for path in paths {
                // Shown if it fails.
                println!("{}", path.display());
                run_on(&std::fs::read(path).unwrap());
            }
        };
        replay("start", protocol::run_on);
    }
}

/// The examples of the README are run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
