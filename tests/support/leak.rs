//! What a process has, before and after.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Counts of what a test could leave behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inventory(BTreeMap<String, usize>);

impl Inventory {
    pub(crate) fn take() -> Self {
        let mut counts = BTreeMap::new();
        let mut count = |what: String| *counts.entry(what).or_insert(0) += 1;
        for entry in fs::read_dir("/proc/self/fd").expect("proc").flatten() {
            // Kinds, not numbers: a helper that was replaced has other ones.
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            if !target.starts_with("/proc/") {
                let kind = target.split('[').next().unwrap_or(&target);
                count(format!("descriptor of {kind}"));
            }
        }
        for _ in fs::read_dir("/proc/self/task").expect("proc") {
            count("thread".to_string());
        }
        for (pid, state) in children_of(std::process::id()) {
            count(if state == 'Z' { format!("zombie {pid}") } else { "child".to_string() });
        }
        for line in fs::read_to_string("/proc/self/maps").expect("proc").lines() {
            let name = line.split_ascii_whitespace().nth(5).unwrap_or_default();
            if name.starts_with("/memfd:") || name.starts_with("/dev/shm") {
                count(format!("mapping of {name}"));
            }
        }
        // Names that tests use end in their process's number, as other tests run meanwhile.
        let us = std::process::id().to_string();
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.strip_suffix(&us).is_some_and(|rest| rest.ends_with(['-', '_'])) {
                count(format!("/dev/shm/{name}"));
            }
        }
        Self(counts)
    }

    /// Compares with what there is now. What ends by itself has so long to do so.
    pub(crate) fn compare(&self, patience: Duration) -> Result<(), String> {
        let start = Instant::now();
        loop {
            // Before it looks, so that it looks once more where it was held up itself.
            let late = start.elapsed() > patience;
            // As every program does now and then: reaps what was detached.
            let _ = multiprocess::active_children();
            let now = Self::take();
            if now == *self {
                return Ok(());
            }
            if late {
                let all = self.0.keys().chain(now.0.keys());
                let changed = all.filter(|key| self.0.get(*key) != now.0.get(*key));
                let show = |key: &String| {
                    let count = |counts: &BTreeMap<_, _>| counts.get(key).copied().unwrap_or(0);
                    format!("{key}: {} before, {} after", count(&self.0), count(&now.0))
                };
                let mut lines: Vec<String> = changed.map(show).collect();
                lines.dedup();
                return Err(lines.join("; "));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Numbers and states of the processes whose kernel parent is `parent`.
pub(crate) fn children_of(parent: u32) -> Vec<(u32, char)> {
    processes().into_iter().filter(|process| process.2 == parent).map(|p| (p.0, p.1)).collect()
}

/// Number, state, parent and process group of every process.
pub(crate) fn processes() -> Vec<(u32, char, u32, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // proc_pid_stat(5): the name is in parentheses and may hold any character.
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse().ok());
        if let (Some(state), Some(parent), Some(group)) =
            (fields.first().and_then(|field| field.chars().next()), number(1), number(2))
        {
            found.push((pid, state, parent, group));
        }
    }
    found
}

/// Whether there is a process of that number that has not ended.
pub(crate) fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// What a process does, as proc_pid_stat(5) has it.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next()
}
