//! The cases, a file for each subject. Ours stand first in each list of rows.

pub mod check;
mod iox;
mod lock;
mod manager;
pub mod memory;
mod pipe;
mod pool;
pub mod process;
pub mod python;
mod queue;
mod transfer;

use crate::harness::Case;

/// All cases, in the order of the report.
pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(process::CASES);
    all.extend(pipe::CASES);
    all.extend(transfer::CASES);
    all.extend(queue::CASES);
    all.extend(lock::CASES);
    all.extend(pool::CASES);
    all.extend(manager::CASES);
    all.extend(memory::CASES);
    all
}
