//! The row of procspawn in `worker_memory_idle`, in a program that has little beside it: see `idle`.

use std::time::Duration;

use pss::{Outcome, pss, said};
use raw::process;

#[path = "../pss.rs"]
mod pss;

#[path = "../raw"]
#[expect(dead_code, reason = "other rows need more of it")]
mod raw {
    pub mod pipes;
    pub mod process;
}

fn main() {
    procspawn::init();
    process::die_with_parent();
    said(pool());
}

fn pool() -> Outcome {
    let pool = procspawn::Pool::new(2)?;
    let nap = Duration::from_millis(20);
    let tasks: Vec<_> = (0..2).map(|_| pool.spawn(nap, std::thread::sleep)).collect();
    for task in tasks {
        task.join()?;
    }
    pss(&process::children())
}
