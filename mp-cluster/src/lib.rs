//! The same pool on many machines, and objects that they share, on a Redis or Valkey server.
//!
//! ```standalone_crate
//! use mp_pool::Pool;
//!
//! fn square(x: u64) -> u64 {
//!     x * x
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mp_process::init(); // the first line of main
//!     let url = "redis://head:6379/";
//!     # let Some(mut server) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/server.rs")) else { return Ok(()) };
//!     # let url = server.url();
//!     if std::env::args().any(|arg| arg == "--serve") {
//!         mp_cluster::serve(url, "job7")?.workers(8).run()?; // on every other machine, the same program
//!         return Ok(());
//!     }
//!     # server.serve();
//!     // The one line that a program for one machine has otherwise.
//!     let pool = Pool::builder().engine(mp_cluster::Engine::connect(url, "job7")?).build()?;
//!     println!("{}", pool.map(square, 0..1_000_000_u64)?.len());
//!     Ok(())
//! }
//! ```
//!
//! # By task
//!
//! | To | Use |
//! | --- | --- |
//! | run a pool's tasks on other machines | [`Engine`], with [`mp_pool::Builder::engine`] |
//! | have a machine run tasks | [`serve`], [`Host`] |
//! | share items, rows, numbers | [`Cluster`] and its [`Queue`], [`Dict`], [`List`], [`Counter`] |
//! | take turns | [`Lock`], which is a lease and has a fence |
//!
//! # At least once
//!
//! A task whose host falls silent is given to another: it may run twice, and its result comes once. [`Engine`] says what
//! follows from that, and what the server's settings decide.
//!
//! # Errors
//!
//! Each call of an object can fail with
//! - [`Error::Unreachable`], where the server is away, or loads its data, for longer than the
//!   [`patience`](Cluster::patience);
//! - [`Error::Denied`] where the user may not do it, [`Error::Server`] where the server cannot;
//! - [`Error::WrongType`] where something else has the name;
//! - [`Error::Encode`], [`Error::TooLong`] and [`Error::Decode`] for what does not travel;
//! - [`Error::Io`] where descriptors or threads are short.
//!
//! # What differs from Python
//!
//! There, `BaseManager` over TCP shares objects between machines, and a pool stays on its own.
//!
//! # Threads and connections
//!
//! An [`Engine`] has three threads and as many connections, from its first task on; a [`Host`] four, beside those of its
//! pool. Objects have no threads; a call takes a connection for as long as it lasts. All is synchronous. Whoever may write
//! to the server says which code of this program the hosts run: see the README on passwords and TLS.
#![forbid(unsafe_code)]

mod cluster;
mod counter;
mod dict;
mod engine;
mod error;
mod handle;
mod host;
mod list;
mod lock;
mod method;
mod protocol;
mod queue;
mod server;

pub use cluster::Cluster;
pub use counter::Counter;
pub use dict::Dict;
pub use engine::Engine;
pub use error::{Error, PutError, Result};
pub use host::{Host, Stop, serve};
pub use list::List;
pub use lock::{Lock, LockGuard};
pub use method::Method;
pub use queue::Queue;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_traits() {
        fn is_send_and_sync<T: Send + Sync>() {}
        type Local = std::rc::Rc<()>;
        is_send_and_sync::<Cluster>();
        is_send_and_sync::<Queue<Local>>();
        is_send_and_sync::<Dict<Local, Local>>();
        is_send_and_sync::<List<Local>>();
        is_send_and_sync::<Counter>();
        is_send_and_sync::<Lock>();
        is_send_and_sync::<Engine>();
        is_send_and_sync::<Stop>();
        is_send_and_sync::<Error>();
        fn is_send<T: Send>() {}
        is_send::<Host>();
    }

    /// The Rust blocks of a text, without what the documentation hides.
    fn blocks(text: &str, comment: &str) -> Vec<String> {
        let lines = text.lines().map(|line| match line.strip_prefix(comment) {
            None if line == comment.trim_end() => "",
            rest => rest.unwrap_or(line),
        });
        let (mut blocks, mut block) = (Vec::new(), None::<(bool, String)>);
        for line in lines {
            match &mut block {
                None => {
                    let kind = line.strip_prefix("```").map(|kind| kind.split(',').next());
                    let is_rust = |kind| ["", "rust", "standalone_crate"].contains(&kind);
                    block = kind.map(|kind| (kind.is_some_and(is_rust), String::new()));
                }
                Some(_) if line == "```" => blocks
                    .extend(block.take().filter(|(is_rust, _)| *is_rust).map(|(_, text)| text)),
                Some(_) if line.trim_start().starts_with("# ") => {}
                Some((_, text)) => *text = format!("{text}{line}\n"),
            }
        }
        blocks
    }

    /// Those of the documentation are run, on a server of their own: for that they have hidden lines, which the README
    /// would show.
    #[test]
    fn the_examples_of_the_readme_are_those_of_the_documentation() {
        let run =
            [blocks(include_str!("lib.rs"), "//! "), blocks(include_str!("cluster.rs"), "/// ")];
        let readme = blocks(include_str!("../README.md"), "");
        assert_eq!(readme, [run[0][0].clone(), run[1][0].clone()]);
    }
}
