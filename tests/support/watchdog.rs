//! Runs a program that may hang, and says where it does.

use std::fs;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use super::leak::processes;

/// Runs `command`, the leader of a process group of its own, for at most `limit`. It must succeed, and
/// nothing of its group may be left when it has ended. Its output is part of the error.
pub(crate) fn run(mut command: Command, limit: Duration) -> Result<(), String> {
    // A file, not a pipe: whoever is left over holding a pipe would keep us reading.
    let mut output = temporary_file();
    command.stdout(output.try_clone().expect("a descriptor"));
    command.stderr(output.try_clone().expect("a descriptor"));
    let child = command.spawn().map_err(|error| format!("cannot start the test: {error}"))?;
    watch(child, limit).map_err(|why| {
        let mut text = Vec::new();
        output.rewind().expect("rewinds");
        output.read_to_end(&mut text).expect("reads");
        format!("{why}\n--- output ---\n{}", String::from_utf8_lossy(&text))
    })
}

/// As [`run`], of a program that was started, the leader of a process group of its own.
pub(crate) fn watch(mut child: Child, limit: Duration) -> Result<(), String> {
    let group = child.id();
    let start = Instant::now();
    let mut pause = Duration::from_micros(500);
    let verdict = loop {
        // Before it looks, so that it looks once more where it was held up itself.
        let late = start.elapsed() > limit;
        match child.try_wait().expect("waits") {
            Some(status) => break verdict(status, group),
            None if late => {
                let report = describe(group);
                break Err(format!("hung: still there after {limit:?}\n{report}"));
            }
            None => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    if verdict.is_err() {
        end(group);
        let _ = child.wait();
    }
    verdict
}

fn verdict(status: ExitStatus, group: u32) -> Result<(), String> {
    if !status.success() {
        return Err(format!("failed: {status}"));
    }
    // What ends with the program may take a moment.
    let start = Instant::now();
    loop {
        let late = start.elapsed() > Duration::from_secs(20);
        if members(group).is_empty() {
            return Ok(());
        }
        if late {
            return Err(format!("left processes behind:\n{}", describe(group)));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn members(group: u32) -> Vec<u32> {
    let of_group = processes().into_iter().filter(|process| process.3 == group);
    of_group.filter(|process| process.1 != 'Z').map(|process| process.0).collect()
}

/// Who waits for what, in each process of the group.
fn describe(group: u32) -> String {
    members(group).into_iter().map(describe_one).collect()
}

pub(crate) fn describe_one(pid: u32) -> String {
    let read = |file: &str| {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&text).replace('\0', " ").trim().to_string()
    };
    let mut report = format!(
        "process {pid}: {}\n  waits in {} (system call {})\n",
        read("cmdline"),
        read("wchan"),
        read("syscall"),
    );
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        report += &format!("  {:?} is {}\n", entry.file_name(), target.display());
    }
    report
}

/// Ends what is left of a test's group: all of it was started by the test.
fn end(group: u32) {
    for pid in members(group) {
        // SAFETY: takes numbers only.
        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    }
}

fn temporary_file() -> fs::File {
    // SAFETY: a name with its NUL.
    let fd = unsafe { libc::memfd_create(c"test-output".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "a memory file");
    // SAFETY: the call just made this descriptor.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}
