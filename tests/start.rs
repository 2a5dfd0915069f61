//! Starting, watching and ending processes.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use multiprocess::core::sys::fd::{self, wait_readable};
use multiprocess::core::sys::process;
use multiprocess::core::{Deadline, spin};
use multiprocess::{
    Error, Fd, Process, ProcessError, Run, StartMethod, active_children, current_process,
    parent_process, start_method,
};
use serde::{Deserialize, Serialize};

use crate::support::leak::{self, children_of};
use crate::support::seccomp;
use crate::support::{Folder, HANG, Outcome, Role, eventually, may_open, role, runs};

crate::cases! {
    EACH:
        a_target_gets_its_arguments_and_its_result_comes_back
        targets_take_up_to_eight_arguments
        a_closure_without_captures_is_a_target
        a_task_runs_in_the_new_process
        a_panic_reaches_the_parent_and_the_exit_code_is_101
        what_the_target_returns_is_data_also_an_err
        an_exit_code_and_a_signal_are_told_apart
        large_arguments_and_results_need_no_reader
        a_result_that_cannot_be_encoded_is_an_error
        an_argument_that_cannot_be_encoded_is_an_error_of_start
        an_argument_that_cannot_be_decoded_is_an_error_of_result
        names_count_up_and_tell_the_ancestry
        a_process_knows_its_parent
        a_child_has_nothing_open_but_its_arguments
        a_pipe_ends_when_its_only_writer_does_though_siblings_were_started_in_between
        descriptors_travel_anywhere_in_arguments_and_results
        hundreds_of_descriptors_travel_in_one_message
        standard_input_is_empty
        arguments_environment_and_directory_are_the_parents
        output_goes_where_the_parents_goes_now
        the_cpus_are_those_of_the_parent_now
        join_timeout_says_that_it_still_runs
        terminate_and_kill_end_it_and_do_nothing_afterwards
        close_is_refused_while_it_runs
        its_descriptor_is_readable_once_it_has_ended
        of_many_that_end_together_each_end_is_known
        active_children_are_those_that_run
        a_dropped_child_goes_on_and_leaves_no_zombie
        a_join_reaps_dropped_children_too
        a_daemon_may_not_start_processes
        a_child_starts_children_of_its_own
        the_start_method_is_inherited
        what_was_measured_of_the_machine_is_inherited
        signals_are_as_after_a_clean_start
        signals_do_in_a_child_what_they_do_by_default
        a_fork_behind_the_crates_back_has_no_children_and_reports_nothing
        a_thread_that_holds_standard_output_does_not_hold_up_the_end
        a_lock_that_a_thread_kept_does_not_hold_up_the_end
        what_the_ending_thread_keeps_locked_is_written
        what_c_buffers_is_written_while_a_thread_holds_standard_output
        the_end_waits_for_a_slow_reader_whoever_buffers
    ;
    THREADED:
        processes_are_started_from_many_threads_at_once
        any_thread_may_wait
    ;
    ONCE:
        a_closure_with_captures_runs_by_fork
        a_closure_with_captures_runs_by_nothing_else
        fork_is_refused_with_threads_and_not_after_they_were_joined
        without_init_spawn_is_refused_and_the_rest_works
        without_init_threads_need_it
        init_that_is_not_reached_is_an_error_and_main_does_not_start_processes
        init_off_the_main_thread_does_not_count
        what_is_buffered_is_printed_once
        the_end_of_a_program_ends_daemons_and_waits_for_the_others
        exit_waits_for_children_too
        without_a_descriptor_left_children_are_joined
        daemons_that_cannot_be_signalled_do_not_hold_up_the_end_of_a_program
        the_directory_is_the_parents_whatever_its_path_leads_to
        users_and_groups_are_those_of_the_parent_now
        a_replaced_and_deleted_program_still_starts_itself
        a_program_that_ignores_sigchld_still_gets_results
        start_says_what_happened_to_a_child_that_died_early
        a_program_that_takes_over_orphans_has_no_zombies_of_a_fork_server
        children_in_another_pid_namespace_are_refused_but_for_forks
        a_child_that_cannot_be_watched_is_started_and_joined
        what_cannot_be_watched_at_all_is_not_started
        a_number_used_again_is_another_process
    ;
    SLOW:
        a_child_that_never_comes_to_its_target_is_killed_after_half_a_minute
    ;
}

pub(crate) const ROLES: &[Role] = &[
    ("without-init", without_init),
    ("threads-without-init", threads_without_init),
    ("init-not-reached", init_not_reached),
    ("init-in-thread", init_in_thread),
    ("buffered", buffered),
    ("ends-with-children", ends_with_children),
    ("exits-with-children", exits_with_children),
    ("out-of-descriptors", out_of_descriptors),
    ("may-not-signal", may_not_signal),
    ("moves", moves),
    ("changes-its-user", changes_its_user),
    ("replaced", replaced),
    ("ignores-sigchld", ignores_sigchld),
    ("dies-early", dies_early),
    ("takes-over-orphans", takes_over_orphans),
    ("moves-its-children", moves_its_children),
    ("cannot-watch", cannot_watch),
    ("cannot-watch-at-all", cannot_watch_at_all),
    ("never-comes", never_comes),
];

fn add(a: i32, b: i32) -> i32 {
    a + b
}

fn sleep_for_ever() {
    thread::sleep(Duration::from_secs(1000));
}

fn a_target_gets_its_arguments_and_its_result_comes_back() -> Outcome {
    let child = Process::new(add, (2, 3)).start()?;
    assert_ne!(child.pid(), std::process::id());
    let status = child.join()?;
    assert!(status.success());
    assert_eq!((child.exit_code(), child.is_alive()), (Some(0), false));
    assert_eq!(child.join()?, status, "joining again is fine");
    assert_eq!(child.result()?, 5);
    Ok(())
}

fn targets_take_up_to_eight_arguments() -> Outcome {
    fn none() -> u8 {
        0
    }
    fn one(a: u8) -> u8 {
        a
    }
    #[expect(clippy::too_many_arguments, reason = "the limit")]
    fn eight(a: u8, b: i64, c: String, d: Vec<u8>, e: bool, f: char, g: f64, h: ()) -> String {
        format!("{a} {b} {c} {d:?} {e} {f} {g} {h:?}")
    }
    assert_eq!(Process::new(none, ()).start()?.result()?, 0);
    assert_eq!(Process::new(one, (1,)).start()?.result()?, 1);
    let args = (1, -2, "three".to_string(), vec![4], true, '6', 7.5, ());
    assert_eq!(Process::new(eight, args).start()?.result()?, "1 -2 three [4] true 6 7.5 ()");
    Ok(())
}

fn a_closure_without_captures_is_a_target() -> Outcome {
    let double = |x: u64| x * 2;
    assert_eq!(Process::new(double, (21,)).start()?.result()?, 42);
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Join {
    words: Vec<String>,
    with: Option<char>,
}

impl Run for Join {
    type Output = (String, u32);

    fn run(self) -> (String, u32) {
        let with = self.with.map(String::from).unwrap_or_default();
        (self.words.join(&with), current_process().pid())
    }
}

fn a_task_runs_in_the_new_process() -> Outcome {
    let task = Join { words: vec!["a".into(), "b".into()], with: Some('-') };
    let child = Process::of(task).start()?;
    let pid = child.pid();
    assert_eq!(child.result()?, ("a-b".to_string(), pid));
    Ok(())
}

fn panic_with(message: String) {
    panic!("{message}");
}

fn a_panic_reaches_the_parent_and_the_exit_code_is_101() -> Outcome {
    let child = Process::new(panic_with, ("out of cheese".to_string(),)).start()?;
    assert_eq!(child.join()?.code(), Some(101));
    match child.result() {
        Err(ProcessError::Panicked(message)) => assert_eq!(message, "out of cheese"),
        other => panic!("{other:?}"),
    }
    let payload = || std::panic::panic_any(7_u8);
    let error = Process::new(payload, ()).start()?.result().map(|(): ()| ()).unwrap_err();
    assert!(matches!(error, ProcessError::Panicked(_)), "{error}");
    Ok(())
}

fn what_the_target_returns_is_data_also_an_err() -> Outcome {
    let fail = || Err::<u8, String>("no".to_string());
    let child = Process::new(fail, ()).start()?;
    assert_eq!(child.join()?.exit_code(), Some(0));
    assert_eq!(child.result()?, Err("no".to_string()));
    Ok(())
}

fn exit_with(code: i32) -> u8 {
    std::process::exit(code)
}

fn an_exit_code_and_a_signal_are_told_apart() -> Outcome {
    for (code, seen) in [(0, 0), (3, 3), (300, 44), (-1, 255)] {
        let child = Process::new(exit_with, (code,)).start()?;
        assert_eq!(child.join()?.exit_code(), Some(seen));
        assert!(matches!(child.result(), Err(ProcessError::Exited(code)) if code == seen));
    }
    let abort = || -> u8 { std::process::abort() };
    let child = Process::new(abort, ()).start()?;
    let status = child.join()?;
    assert_eq!((status.exit_code(), status.signal()), (Some(-libc::SIGABRT), Some(libc::SIGABRT)));
    assert!(matches!(child.result(), Err(ProcessError::Signaled(libc::SIGABRT))));
    Ok(())
}

fn large_arguments_and_results_need_no_reader() -> Outcome {
    let reverse = |mut bytes: Vec<u8>| {
        bytes.reverse();
        bytes
    };
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| (i % 251) as u8).collect();
    let child = Process::new(reverse, (bytes.clone(),)).start()?;
    assert!(child.join()?.success(), "it ends before anybody reads");
    let reversed = child.result()?;
    assert!(reversed.iter().eq(bytes.iter().rev()));

    // Nobody but is_alive looks.
    let child = Process::new(|n: usize| vec!["x".to_string(); n], (100_000,)).start()?;
    eventually("the child ends", || !child.is_alive())?;
    assert_eq!(child.result()?.len(), 100_000);
    Ok(())
}

#[derive(Debug, PartialEq, Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("I stay here"))
    }
}

fn a_result_that_cannot_be_encoded_is_an_error() -> Outcome {
    let child = Process::new(|| Stubborn, ()).start()?;
    assert_eq!(child.join()?.code(), Some(1));
    match child.result() {
        Err(ProcessError::Encode(why)) => assert!(why.contains("I stay here"), "{why}"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

fn an_argument_that_cannot_be_encoded_is_an_error_of_start() -> Outcome {
    let error = Process::new(|_: Stubborn| (), (Stubborn,)).start().unwrap_err();
    assert!(matches!(error, Error::Encode(_)), "{error}");
    Ok(())
}

/// Can be sent, but not received.
#[derive(Debug, Serialize)]
struct OneWay;

impl<'de> Deserialize<'de> for OneWay {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("not here"))
    }
}

fn an_argument_that_cannot_be_decoded_is_an_error_of_result() -> Outcome {
    let error = Process::new(|_: OneWay| (), (OneWay,)).start()?.result().unwrap_err();
    assert!(matches!(&error, ProcessError::Decode(why) if why.contains("not here")), "{error}");
    let error = Process::new(|| OneWay, ()).start()?.result().unwrap_err();
    assert!(matches!(&error, ProcessError::Decode(why) if why.contains("not here")), "{error}");
    Ok(())
}

fn own_name() -> String {
    current_process().name().to_string()
}

fn names_count_up_and_tell_the_ancestry() -> Outcome {
    fn names_below() -> Vec<String> {
        let child = || Process::new(own_name, ()).start().expect("starts").result().expect("ends");
        vec![own_name(), child(), child()]
    }
    // The first two were made by the harness.
    assert_eq!(Process::new(own_name, ()).start()?.result()?, "Process-3");
    assert_eq!(
        Process::new(names_below, ()).start()?.result()?,
        ["Process-4", "Process-4:1", "Process-4:2"]
    );
    let child = Process::new(names_below, ()).name("walter").start()?;
    assert_eq!(child.name(), "walter");
    assert_eq!(child.result()?, ["walter", "Process-5:1", "Process-5:2"]);
    assert_eq!(current_process().name(), "MainProcess");
    Ok(())
}

fn a_process_knows_its_parent() -> Outcome {
    fn parent() -> (String, u32, bool, bool) {
        let parent = parent_process().expect("is a child");
        let gone = parent.join_timeout(Duration::from_millis(1)).expect("waits");
        (parent.name().to_string(), parent.pid(), parent.is_alive(), gone)
    }
    assert!(parent_process().is_none());
    let expected = ("MainProcess".to_string(), std::process::id(), true, false);
    assert_eq!(Process::new(parent, ()).start()?.result()?, expected);
    Ok(())
}

/// What is open in this process above the standard streams, by what it is.
fn open_descriptors() -> Vec<String> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").expect("proc").flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        let number: i32 = entry.file_name().to_str().and_then(|s| s.parse().ok()).expect("number");
        if number > 2 && !target.starts_with("/proc/") && target != "/dev/null" {
            open.push(target.split(':').next().unwrap_or(&target).to_string());
        }
    }
    open.sort();
    open
}

fn a_child_has_nothing_open_but_its_arguments() -> Outcome {
    let mine: Vec<File> =
        (0..20).map(|_| File::open("/proc/self/exe")).collect::<Result<_, _>>()?;
    let (kept, _other) = UnixStream::pair()?;
    let open = |fd: Fd| (open_descriptors(), fd.as_fd().as_raw_fd() > 2);
    let (open, _) = Process::new(open, (Fd::from(kept),)).start()?.result()?;
    // Its parent's process descriptor, the channel for the result, and the argument.
    assert_eq!(open, ["anon_inode", "socket", "socket"], "{open:?}");
    drop(mine);
    Ok(())
}

fn a_pipe_ends_when_its_only_writer_does_though_siblings_were_started_in_between() -> Outcome {
    let write = |writer: Fd, text: String| {
        let mut writer = io::PipeWriter::from(writer);
        writer.write_all(text.as_bytes()).expect("writes");
    };
    let (mut reader, writer) = io::pipe()?;
    let before = Process::new(sleep_for_ever, ()).start()?;
    let first = Process::new(write, (Fd::from(writer.try_clone()?), "one".into()));
    let between = Process::new(sleep_for_ever, ()).start()?;
    let second = Process::new(write, (Fd::from(writer), "two".into()));
    // Both messages hold a copy until they are started.
    first.start()?.join()?;
    let after = Process::new(sleep_for_ever, ()).start()?;
    second.start()?.join()?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    assert_eq!(text, "onetwo");

    // A killed writer ends it as well.
    let (mut reader, writer) = io::pipe()?;
    let hold = |writer: Fd| {
        let _writer = writer;
        sleep_for_ever();
    };
    let holder = Process::new(hold, (Fd::from(writer),)).start()?;
    let sibling = Process::new(sleep_for_ever, ()).start()?;
    holder.kill()?;
    assert_eq!(reader.read(&mut [0])?, 0);
    for child in [before, between, after, sibling, holder] {
        child.kill()?;
        child.join()?;
    }
    Ok(())
}

fn descriptors_travel_anywhere_in_arguments_and_results() -> Outcome {
    type Nested = (u8, Option<Vec<(String, Fd)>>);
    let answer = |(_, streams): Nested| -> Vec<Fd> {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        for (name, stream) in streams.expect("some") {
            UnixStream::from(stream).write_all(name.as_bytes()).expect("writes");
        }
        writer.write_all(b"from the child").expect("writes");
        vec![Fd::from(reader)]
    };
    let (mut near, far) = UnixStream::pair()?;
    let streams =
        vec![("a".to_string(), Fd::from(far.try_clone()?)), ("b".to_string(), Fd::from(far))];
    let child = Process::new(answer, ((7, Some(streams)),)).start()?;
    let mut text = String::new();
    near.read_to_string(&mut text)?;
    assert_eq!(text, "ab");
    let mut fds = child.result()?;
    text.clear();
    io::PipeReader::from(fds.remove(0)).read_to_string(&mut text)?;
    assert_eq!(text, "from the child");
    Ok(())
}

fn hundreds_of_descriptors_travel_in_one_message() -> Outcome {
    if !may_open(1024) {
        return Ok(());
    }
    let back = |fds: Vec<Fd>| fds;
    let (reader, writer) = io::pipe()?;
    let fds: Result<Vec<Fd>, _> = (0..300).map(|_| writer.try_clone().map(Fd::from)).collect();
    let fds = Process::new(back, (fds?,)).start()?.result()?;
    assert_eq!(fds.len(), 300);
    drop(writer);
    let mut fds: Vec<io::PipeWriter> = fds.into_iter().map(io::PipeWriter::from).collect();
    for fd in &mut fds {
        fd.write_all(b"x")?;
    }
    drop(fds);
    let mut text = String::new();
    let mut reader = reader;
    reader.read_to_string(&mut text)?;
    assert_eq!(text.len(), 300);
    Ok(())
}

fn standard_input_is_empty() -> Outcome {
    let read = || {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|len| len as u64).map_err(|e| e.to_string())
    };
    assert_eq!(Process::new(read, ()).start()?.result()?, Ok(0));
    Ok(())
}

fn arguments_environment_and_directory_are_the_parents() -> Outcome {
    type Surroundings = (Vec<String>, Vec<(String, String)>, String);
    fn surroundings() -> Surroundings {
        let directory = env::current_dir().expect("a directory");
        let mut variables: Vec<_> = env::vars().collect();
        variables.sort();
        (env::args().collect(), variables, directory.to_string_lossy().into_owned())
    }
    let check = || -> Outcome {
        assert_eq!(Process::new(surroundings, ()).start()?.result()?, surroundings());
        Ok(())
    };
    check()?;
    // As they are now, not as they were when the fork server came to be.
    env::set_current_dir("/")?;
    check()?;
    let home = env::var_os("HOME");
    // SAFETY: this process has one thread.
    unsafe { env::set_var("MP_TEST_NEW", "a=b") };
    // SAFETY: as above.
    unsafe { env::remove_var("HOME") };
    check()?;
    // SAFETY: as above.
    unsafe { env::set_var("HOME", home.unwrap_or_default()) };
    // SAFETY: as above.
    unsafe { env::remove_var("MP_TEST_NEW") };
    check()
}

fn output_goes_where_the_parents_goes_now() -> Outcome {
    let (mut reader, writer) = io::pipe()?;
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    // SAFETY: takes numbers only.
    unsafe { libc::dup2(writer.as_raw_fd(), 1) };
    drop(writer);
    let child = Process::new(|| println!("hello from the child"), ()).start();
    let joined = child.and_then(|child| child.join());
    // SAFETY: as above.
    unsafe { libc::dup2(stdout.as_raw_fd(), 1) };
    assert!(joined?.success());
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    assert_eq!(text, "hello from the child\n");
    Ok(())
}

fn the_cpus_are_those_of_the_parent_now() -> Outcome {
    let all = process::affinity().ok_or("no CPUs")?;
    // The last one alone: a helper that was started on all of them has others.
    let last = (0..1024).rfind(|cpu| all[cpu / 64] >> (cpu % 64) & 1 == 1).ok_or("no CPU")?;
    let mut one = [0; 16];
    one[last / 64] = 1 << (last % 64);
    for cpus in [one, all] {
        process::set_affinity(&cpus)?;
        assert_eq!(Process::new(process::affinity, ()).start()?.result()?, Some(cpus));
    }
    Ok(())
}

fn join_timeout_says_that_it_still_runs() -> Outcome {
    let child = Process::new(sleep_for_ever, ()).start()?;
    assert_eq!(child.join_timeout(Duration::from_millis(20))?, None);
    assert_eq!(child.join_timeout(Duration::ZERO)?, None);
    assert_eq!((child.exit_code(), child.is_alive()), (None, true));
    child.kill()?;
    let status = child.join_timeout(Duration::MAX)?.expect("waits for ever, and it ends");
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    Ok(())
}

fn terminate_and_kill_end_it_and_do_nothing_afterwards() -> Outcome {
    let child = Process::new(sleep_for_ever, ()).start()?;
    child.terminate()?;
    assert_eq!(child.join()?.exit_code(), Some(-libc::SIGTERM));
    child.terminate()?;
    child.kill()?;
    assert_eq!(child.exit_code(), Some(-libc::SIGTERM));
    let child = Process::new(sleep_for_ever, ()).start()?;
    child.kill()?;
    assert_eq!(child.join()?.exit_code(), Some(-libc::SIGKILL));
    Ok(())
}

fn close_is_refused_while_it_runs() -> Outcome {
    let child = Process::new(sleep_for_ever, ()).start()?;
    assert!(matches!(child.close(), Err(Error::StillRunning { pid }) if pid == child.pid()));
    child.kill()?;
    child.join()?;
    child.close()?;
    child.close()?;
    assert!(matches!(child.join(), Err(Error::Closed)));
    assert!(!child.is_alive());
    Ok(())
}

fn its_descriptor_is_readable_once_it_has_ended() -> Outcome {
    fn readable(fd: impl AsFd, timeout: Duration) -> bool {
        wait_readable(fd.as_fd(), Deadline::after(timeout)).expect("polls")
    }
    // It reports a result long before it ends.
    let (reader, writer) = io::pipe()?;
    let wait = |reader: Fd| {
        let _ = io::PipeReader::from(reader).read(&mut [0]);
        vec![0_u8; 1_000_000]
    };
    let child = Process::new(wait, (Fd::from(reader),)).start()?;
    assert!(!readable(&child, Duration::from_millis(20)));
    drop(writer);
    assert!(readable(&child, HANG));
    assert_eq!(child.result()?.len(), 1_000_000);
    Ok(())
}

fn of_many_that_end_together_each_end_is_known() -> Outcome {
    let children: Vec<_> =
        (0..70).map(|_| Process::new(sleep_for_ever, ()).start()).collect::<Result<_, _>>()?;
    // Of the second half few are left to look at.
    for half in children.chunks(35) {
        half.iter().try_for_each(|child| child.kill())?;
        for child in half {
            assert_eq!(child.join()?.signal(), Some(9));
        }
    }
    Ok(())
}

fn active_children_are_those_that_run() -> Outcome {
    assert!(active_children().is_empty());
    let quick = Process::new(add, (1, 1)).start()?;
    let one = Process::new(sleep_for_ever, ()).name("one").start()?;
    let two = Process::new(sleep_for_ever, ()).name("two").daemon(true).start()?;
    quick.join()?;
    let mut names: Vec<(String, u32, bool)> = active_children()
        .iter()
        .map(|child| (child.name().to_string(), child.pid(), child.daemon()))
        .collect();
    names.sort();
    let expected = [("one".to_string(), one.pid(), false), ("two".to_string(), two.pid(), true)];
    assert_eq!(names, expected);
    drop((one, two));
    for child in active_children() {
        child.kill()?;
        assert_eq!(child.join()?.signal(), Some(libc::SIGKILL));
    }
    assert!(active_children().is_empty());
    Ok(())
}

fn a_dropped_child_goes_on_and_leaves_no_zombie() -> Outcome {
    let (mut reader, writer) = io::pipe()?;
    let write = |writer: Fd| {
        thread::sleep(Duration::from_millis(30));
        io::PipeWriter::from(writer).write_all(b"done").expect("writes");
        vec![1_u8; 1_000_000]
    };
    drop(Process::new(write, (Fd::from(writer),)).start()?);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    assert_eq!(text, "done");
    let zombies = || children_of(std::process::id()).iter().filter(|child| child.1 == 'Z').count();
    eventually("no zombie is left", || active_children().is_empty() && zombies() == 0)
}

fn a_join_reaps_dropped_children_too() -> Outcome {
    let other = Process::new(sleep_for_ever, ()).start()?;
    for _ in 0..3 {
        // Each start reaps as well.
        drop(Process::new(|| thread::sleep(Duration::from_millis(100)), ()).start()?);
    }
    let left = || -> Vec<_> {
        let theirs = |child: &(u32, char)| child.0 != other.pid() && child.1 != 'S';
        children_of(std::process::id()).into_iter().filter(theirs).collect()
    };
    thread::sleep(Duration::from_millis(200));
    eventually("none is left", || {
        assert!(other.join_timeout(Duration::from_millis(1)).expect("waits").is_none());
        left().is_empty()
    })?;
    other.kill()?;
    other.join()?;
    Ok(())
}

fn a_daemon_may_not_start_processes() -> Outcome {
    fn try_it() -> (bool, bool) {
        let refused = Process::new(add, (1, 2)).start();
        (current_process().daemon(), matches!(refused, Err(Error::Daemon)))
    }
    let daemon = Process::new(try_it, ()).daemon(true).start()?;
    assert!(daemon.daemon());
    assert_eq!(daemon.result()?, (true, true));
    assert!(!current_process().daemon());
    Ok(())
}

fn a_child_starts_children_of_its_own() -> Outcome {
    fn tree(depth: u32) -> u32 {
        if depth == 0 {
            return 1;
        }
        let children: Vec<_> =
            (0..2).map(|_| Process::new(tree, (depth - 1,)).start().expect("starts")).collect();
        children.into_iter().map(|child| child.result().expect("ends")).sum()
    }
    assert_eq!(Process::new(tree, (3,)).start()?.result()?, 8);
    Ok(())
}

fn what_it_has_measured() -> Option<Duration> {
    spin::measured()
}

fn what_was_measured_of_the_machine_is_inherited() -> Outcome {
    // Where there is one CPU, nothing is measured, and nothing inherited.
    let measured = (!spin::budget().is_zero()).then(spin::budget);
    let child = Process::new(what_it_has_measured, ()).start()?;
    assert_eq!(child.result()?, measured);
    Ok(())
}

fn the_start_method_is_inherited() -> Outcome {
    assert_eq!(Process::new(start_method, ()).start()?.result()?, start_method());
    Ok(())
}

fn signals_are_as_after_a_clean_start() -> Outcome {
    /// Blocked, ignored and caught signals, as proc_pid_status(5) gives them.
    fn masks() -> Vec<String> {
        let status = std::fs::read_to_string("/proc/self/status").expect("proc");
        let wanted = |line: &&str| ["SigBlk", "SigIgn"].iter().any(|name| line.starts_with(name));
        status.lines().filter(wanted).map(str::to_string).collect()
    }
    let here = masks();
    assert_eq!(Process::new(masks, ()).start()?.result()?, here);
    Ok(())
}

fn a_thread_that_holds_standard_output_does_not_hold_up_the_end() -> Outcome {
    fn hold() -> u8 {
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let _stdout = io::stdout().lock();
            tell.send(()).expect("sends");
            sleep_for_ever();
        });
        told.recv().expect("holds it");
        7
    }
    let child = Process::new(hold, ()).start()?;
    assert!(child.join_timeout(HANG)?.is_some_and(|status| status.success()));
    assert_eq!(child.result()?, 7);

    // One that does not is waited for, and so is who reads.
    let (reader, writer) = io::pipe()?;
    let write = |writer: Fd| {
        // SAFETY: takes numbers only.
        unsafe { libc::dup2(writer.as_fd().as_raw_fd(), 1) };
        drop(writer);
        thread::spawn(sleep_for_ever);
        thread::spawn(|| print!("{}", "x".repeat(300_000)));
        thread::sleep(Duration::from_millis(10));
        print!("end");
    };
    let child = Process::new(write, (Fd::from(writer),)).start()?;
    thread::sleep(Duration::from_millis(20));
    let mut text = String::new();
    { reader }.read_to_string(&mut text)?;
    assert!(text.ends_with("end"), "{}", text.len());
    assert!(child.join()?.success());
    Ok(())
}

fn a_lock_that_a_thread_kept_does_not_hold_up_the_end() -> Outcome {
    let forget_lock = || {
        let thread = thread::spawn(|| std::mem::forget(io::stdout().lock()));
        thread.join().expect("no panic");
        // It is off the list of threads when the process ends.
        thread::sleep(Duration::from_millis(20));
        3
    };
    let read = || {
        let (tell, told) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let (reader, _writer) = io::pipe().expect("makes one");
            let mut line = [0; 10];
            // SAFETY: a descriptor that is open, and a mode with its NUL.
            let stream = unsafe { libc::fdopen(reader.as_raw_fd(), c"r".as_ptr()) };
            // SAFETY: takes nothing.
            tell.send(unsafe { libc::gettid() }).expect("sends");
            // SAFETY: the stream is open, and there is room for as much as is said.
            unsafe { libc::fgets(line.as_mut_ptr(), 10, stream) };
        });
        let tid = told.recv().expect("comes");
        while !thread.is_finished() {
            let call = std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall"));
            if call.is_ok_and(|call| call.starts_with(&format!("{} ", libc::SYS_read))) {
                break;
            }
            thread::yield_now();
        }
        4
    };
    let (forgetful, reader) = (Process::new(forget_lock, ()), Process::new(read, ()));
    for (process, number) in [(forgetful, 3), (reader, 4)] {
        let child = process.start()?;
        let ended = child.join_timeout(HANG)?;
        child.kill()?;
        assert!(ended.is_some_and(|status| status.success()), "{number}: {ended:?}");
        assert_eq!(child.result()?, number);
    }
    Ok(())
}

/// Makes this standard output.
fn write_to(writer: Fd) {
    // SAFETY: takes numbers only.
    unsafe { libc::dup2(writer.as_fd().as_raw_fd(), 1) };
}

fn what_the_ending_thread_keeps_locked_is_written() -> Outcome {
    let write = |writer: Fd| {
        write_to(writer);
        thread::spawn(sleep_for_ever);
        let stdout = Box::leak(Box::new(io::stdout().lock()));
        write!(stdout, "a part of a line").expect("writes");
    };
    let (mut reader, writer) = io::pipe()?;
    let child = Process::new(write, (Fd::from(writer),)).start()?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    assert_eq!(text, "a part of a line");
    assert!(child.join()?.success());
    Ok(())
}

fn what_c_buffers_is_written_while_a_thread_holds_standard_output() -> Outcome {
    let write = |writer: Fd| {
        write_to(writer);
        let thread = thread::spawn(|| std::mem::forget(io::stdout().lock()));
        thread.join().expect("no panic");
        // SAFETY: a format and nothing for it to read.
        unsafe { libc::printf(c"of C".as_ptr()) };
    };
    let (mut reader, writer) = io::pipe()?;
    let child = Process::new(write, (Fd::from(writer),)).start()?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    assert_eq!(text, "of C");
    assert!(child.join()?.success());
    Ok(())
}

fn the_end_waits_for_a_slow_reader_whoever_buffers() -> Outcome {
    let write = |writer: Fd, by_c: bool| {
        // SAFETY: takes numbers only.
        let room = unsafe { libc::fcntl(writer.as_fd().as_raw_fd(), libc::F_GETPIPE_SZ) };
        write_to(writer);
        thread::spawn(sleep_for_ever);
        let fill = vec![b'x'; usize::try_from(room).expect("a size")];
        // SAFETY: as many bytes as it is told.
        assert_eq!(unsafe { libc::write(1, fill.as_ptr().cast(), fill.len()) }, room as isize);
        if by_c {
            // SAFETY: a format and nothing for it to read.
            unsafe { libc::printf(c"end".as_ptr()) };
        } else {
            print!("end");
        }
    };
    for by_c in [false, true] {
        let (mut reader, writer) = io::pipe()?;
        let child = Process::new(write, (Fd::from(writer), by_c)).start()?;
        // Longer than any lock is waited for.
        assert_eq!(child.join_timeout(Duration::from_millis(700))?, None);
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        assert!(text.ends_with("xend"), "{by_c} {}", text.len());
        assert!(child.join()?.success());
    }
    Ok(())
}

fn signals_do_in_a_child_what_they_do_by_default() -> Outcome {
    extern "C" fn nothing(_: i32) {}
    let handler = nothing as extern "C" fn(i32) as libc::sighandler_t;
    // SAFETY: a handler that does nothing.
    let set = |signal, action| unsafe { libc::signal(signal, action) };
    let ends = || -> Outcome {
        let child = Process::new(sleep_for_ever, ()).start()?;
        child.terminate()?;
        let status = child.join_timeout(HANG)?.ok_or("it goes on")?;
        assert_eq!(status.signal(), Some(libc::SIGTERM));
        Ok(())
    };
    for action in [handler, libc::SIG_IGN] {
        set(libc::SIGTERM, action);
        ends()?;
    }
    set(libc::SIGTERM, libc::SIG_DFL);
    let blocked = process::block_signals();
    ends()?;
    drop(blocked);

    // A child waits for programs that it executes, and goes on where its parent was told to.
    let child = || {
        // SAFETY: no handler is installed.
        let before = unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        let code = std::process::Command::new("true").status().ok().and_then(|it| it.code());
        (code, before == libc::SIG_IGN)
    };
    for (hang_up, other) in [(libc::SIG_IGN, libc::SIG_IGN), (libc::SIG_DFL, handler)] {
        set(libc::SIGHUP, hang_up);
        set(libc::SIGUSR1, other);
        let ignored = hang_up == libc::SIG_IGN;
        assert_eq!(Process::new(child, ()).start()?.result()?, (Some(0), ignored));
    }
    Ok(())
}

/// How a fork of this process ends that does nothing but this.
fn fork_and(run: impl FnOnce() -> i32) -> i32 {
    // SAFETY: this process has one thread, and the copy ends here, or where its caller says.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = run();
        // SAFETY: does not return.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: status is a local.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    libc::WEXITSTATUS(status)
}

fn a_fork_behind_the_crates_back_has_no_children_and_reports_nothing() -> Outcome {
    fn target(panics: bool) -> (bool, usize, i32) {
        let daemon = Process::new(sleep_for_ever, ()).daemon(true).start().expect("starts");
        // SAFETY: this process has one thread; the copy returns from the target.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            assert!(!panics, "in the copy");
            return (false, 0, 0);
        }
        let mut status = 0;
        // SAFETY: status is a local.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        let runs = daemon.join_timeout(Duration::from_millis(50)).expect("waits").is_none();
        (runs, active_children().len(), libc::WEXITSTATUS(status))
    }
    let child = Process::new(sleep_for_ever, ()).start()?;
    assert_eq!(fork_and(|| active_children().len() as i32), 0);
    // It can have its own.
    let own = || match Process::new(add, (3, 4)).start().map(|child| child.result()) {
        Ok(Ok(sum)) => sum + 10 * active_children().len() as i32,
        _ => -1,
    };
    assert_eq!(fork_and(own), 7);
    assert!(child.is_alive() && active_children().len() == 1);
    for (panics, code) in [(false, 0), (true, 101)] {
        assert_eq!(Process::new(target, (panics,)).start()?.result()?, (true, 1, code));
    }
    child.kill()?;
    child.join()?;
    Ok(())
}

fn processes_are_started_from_many_threads_at_once() -> Outcome {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    for round in 0..8 {
                        let child = Process::new(add, (thread, round)).start().expect("starts");
                        assert_eq!(child.result().expect("ends"), thread + round);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
    Ok(())
}

fn any_thread_may_wait() -> Outcome {
    let child =
        thread::spawn(|| Process::new(sleep_for_ever, ()).start()).join().expect("no panic")?;
    // The thread that started it is gone, and it goes on.
    assert_eq!(child.join_timeout(Duration::from_millis(20))?, None);
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| child.join())).collect();
        thread::sleep(Duration::from_millis(10));
        assert!(child.is_alive());
        child.terminate().expect("signals");
        for waiter in waiters {
            let status = waiter.join().expect("no panic").expect("joins");
            assert_eq!(status.signal(), Some(libc::SIGTERM));
        }
    });
    Ok(())
}

fn a_closure_with_captures_runs_by_fork() -> Outcome {
    let words = std::rc::Rc::new(vec!["a", "b"]);
    let (reader, writer) = io::pipe()?;
    let child = Process::fork(move || {
        drop(writer);
        (words.len(), own_name(), reader.as_raw_fd() > 2)
    });
    assert_eq!(child.name("captured").start()?.result()?, (2, "captured".to_string(), true));
    Ok(())
}

fn a_closure_with_captures_runs_by_nothing_else() -> Outcome {
    let error = Process::fork(|| 1).start_method(StartMethod::Spawn).start().unwrap_err();
    assert!(matches!(error, Error::NeedsFork), "{error}");
    Ok(())
}

fn fork_is_refused_with_threads_and_not_after_they_were_joined() -> Outcome {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let thread = thread::spawn(move || receiver.recv());
    let process = || Process::new(add, (1, 2)).start_method(StartMethod::Fork);
    let error = process().start().unwrap_err();
    assert!(matches!(error, Error::Multithreaded), "{error}");
    drop(sender);
    let _ = thread.join();
    for _ in 0..50 {
        thread::spawn(|| ()).join().expect("no panic");
        assert_eq!(process().start()?.result()?, 3);
    }
    Ok(())
}

/// Runs this binary in a role; gives what it prints.
fn run_role(name: &str, arguments: &[&str]) -> Result<(i32, String, String), io::Error> {
    let output = role(name, arguments).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr)))
}

fn without_init(_: &[String]) {
    for method in StartMethod::ALL {
        let result = Process::new(add, (1, 2)).start_method(method).start();
        match result.map(|child| child.result()) {
            Ok(result) => println!("{method:?}: {}", result.expect("ends")),
            Err(error) => println!("{method:?}: {error}"),
        }
    }
    // What was forked without init is without it, too.
    let nested = || Process::new(add, (3, 4)).start().expect("starts").result().expect("ends");
    println!("nested: {}", Process::new(nested, ()).start().unwrap().result().unwrap());
}

fn without_init_spawn_is_refused_and_the_rest_works() -> Outcome {
    let (code, out, err) = run_role("without-init", &[])?;
    assert_eq!((code, err.as_str()), (0, ""), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "ForkServer: 3");
    assert!(lines[1].contains("`multiprocess::init();` on the first line of main"), "{out}");
    assert_eq!(lines[2..], ["Fork: 3", "nested: 7"]);
    Ok(())
}

fn threads_without_init(_: &[String]) {
    let _thread = thread::spawn(|| thread::sleep(Duration::from_secs(1000)));
    let error = Process::new(add, (1, 2)).start().unwrap_err();
    println!("{}", matches!(error, Error::NeedsInit));
}

fn without_init_threads_need_it() -> Outcome {
    assert_eq!(run_role("threads-without-init", &[])?.1, "true\n");
    Ok(())
}

fn init_not_reached(arguments: &[String]) {
    // Only the first process comes by init: a file says who was here before.
    if !std::path::Path::new(&arguments[0]).exists() {
        File::create(&arguments[0]).expect("creates");
        multiprocess::init();
    }
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let error = Process::new(add, (1, 2)).start_method(method).start().unwrap_err();
        println!("{}", matches!(error, Error::MissedInit));
    }
}

fn init_that_is_not_reached_is_an_error_and_main_does_not_start_processes() -> Outcome {
    let folder = Folder::new()?;
    let path = folder.path("was-here");
    let (code, out, err) = run_role("init-not-reached", &[path.to_str().expect("text")])?;
    assert_eq!((code, out.as_str()), (0, "true\ntrue\n"), "{err}");
    assert_eq!(err.matches("put `multiprocess::init();` on the first line").count(), 2, "{err}");
    Ok(())
}

fn init_in_thread(_: &[String]) {
    thread::spawn(multiprocess::init).join().expect("no panic");
    let error = Process::new(add, (1, 2)).start_method(StartMethod::Spawn).start().unwrap_err();
    println!("{}", matches!(error, Error::NeedsInit));
}

fn init_off_the_main_thread_does_not_count() -> Outcome {
    assert_eq!(run_role("init-in-thread", &[])?.1, "true\n");
    Ok(())
}

fn buffered(arguments: &[String]) {
    if arguments[0] == "init" {
        multiprocess::init();
    }
    print!("parent ");
    // SAFETY: a format and nothing for it to read.
    unsafe { libc::printf(c"c-parent ".as_ptr()) };
    for (method, name) in [(StartMethod::Fork, "fork"), (StartMethod::ForkServer, "served")] {
        let say = |name: String| {
            print!("{name} ");
            // SAFETY: as above.
            unsafe { libc::printf(c"c-child ".as_ptr()) };
        };
        let process = Process::new(say, (name.to_string(),)).start_method(method);
        process.start().expect("starts").join().expect("joins");
    }
}

fn what_is_buffered_is_printed_once() -> Outcome {
    for init in ["init", "none"] {
        let (_, out, err) = run_role("buffered", &[init])?;
        let mut words: Vec<&str> = out.split_whitespace().collect();
        words.sort_unstable();
        let once = ["c-child", "c-child", "c-parent", "fork", "parent", "served"];
        assert_eq!(words, once, "{init} {err}");
    }
    Ok(())
}

fn say_later(word: String, after_ms: u64) {
    thread::sleep(Duration::from_millis(after_ms));
    println!("{word}");
}

fn start_family() -> Vec<u32> {
    let mut daemons = Vec::new();
    for method in StartMethod::ALL {
        let say = Process::new(say_later, (format!("{method:?}"), 50)).start_method(method);
        drop(say.start().expect("starts"));
        let daemon = Process::new(sleep_for_ever, ()).daemon(true).start_method(method);
        daemons.push(daemon.start().expect("starts").pid());
    }
    daemons
}

fn ends_with_children(_: &[String]) {
    multiprocess::init();
    println!("{:?}", start_family());
}

fn exits_with_children(_: &[String]) {
    multiprocess::init();
    println!("{:?}", start_family());
    std::process::exit(5);
}

fn family_ends(name: &str, expected: i32) -> Outcome {
    let (code, out, err) = run_role(name, &[])?;
    assert_eq!(code, expected, "{err}");
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines[..3], ["Fork", "ForkServer", "Spawn"], "all children were waited for: {out}");
    let pids = lines[3].trim_matches(['[', ']']).split(", ").map(|pid| pid.parse::<u32>());
    for pid in pids {
        assert!(!runs(pid?), "a daemon outlived its program");
    }
    Ok(())
}

fn the_end_of_a_program_ends_daemons_and_waits_for_the_others() -> Outcome {
    family_ends("ends-with-children", 0)
}

fn exit_waits_for_children_too() -> Outcome {
    family_ends("exits-with-children", 5)
}

fn out_of_descriptors(_: &[String]) {
    multiprocess::init();
    let child = |(method, ms)| {
        let child = Process::new(say_later, (format!("{method:?}"), ms)).start_method(method);
        child.start().expect("starts")
    };
    let joined = StartMethod::ALL.map(|method| child((method, 50)));
    let _left = StartMethod::ALL.map(|method| child((method, 300)));
    // Few, so that it does not take long.
    let limit = libc::rlimit { rlim_cur: 200, rlim_max: 200 };
    // SAFETY: the limit is a local.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    while let Ok(file) = File::open("/dev/null") {
        std::mem::forget(file);
    }
    let error = Process::new(add, (1, 2)).start().unwrap_err();
    println!("{error:?}");
    for child in joined {
        assert!(child.join().expect("joins").success());
        child.result().expect("is there");
    }
    println!("joined");
}

fn without_a_descriptor_left_children_are_joined() -> Outcome {
    let (code, out, err) = run_role("out-of-descriptors", &[])?;
    assert_eq!(code, 0, "{err}");
    let (before, after) = out.split_once("joined\n").ok_or("not joined")?;
    assert!(before.contains("Too many open files"), "{before}");
    for word in ["ForkServer\n", "Spawn\n", "Fork\n"] {
        assert!(before.contains(word) && after.contains(word), "{out}");
    }
    Ok(())
}

fn may_not_signal(_: &[String]) {
    multiprocess::init();
    let daemons = StartMethod::ALL.map(|method| {
        let daemon = Process::new(sleep_for_ever, ()).daemon(true).start_method(method).start();
        daemon.expect("starts")
    });
    // As after a change of user.
    let calls = [libc::SYS_pidfd_send_signal, libc::SYS_kill];
    seccomp::refuse(&calls.map(|call| seccomp::Call::all(call, libc::EPERM))).expect("refuses");
    assert!(daemons.iter().all(|daemon| daemon.terminate().is_err() && daemon.is_alive()));
    println!("{:?}", daemons.each_ref().map(|daemon| daemon.pid()));
}

fn daemons_that_cannot_be_signalled_do_not_hold_up_the_end_of_a_program() -> Outcome {
    let (code, out, err) = run_role("may-not-signal", &[])?;
    assert_eq!(code, 0, "{err}");
    for pid in out.trim().trim_matches(['[', ']']).split(", ") {
        let pid: u32 = pid.parse()?;
        eventually("a daemon ends with its program", || !runs(pid))?;
    }
    Ok(())
}

fn moves(arguments: &[String]) {
    multiprocess::init();
    fn place() -> (Option<std::path::PathBuf>, Option<(u64, u64)>) {
        (env::current_dir().ok(), fd::working_directory_id().ok())
    }
    let check = || {
        for method in StartMethod::ALL {
            let child = Process::new(place, ()).start_method(method).start().expect("starts");
            assert_eq!(child.result().expect("ends"), place(), "{method:?}");
        }
    };
    let folder = std::path::Path::new(&arguments[0]);
    let app = folder.join("app");
    std::fs::create_dir(&app).expect("creates");
    env::set_current_dir(&app).expect("enters");
    check();
    // Another one at the same path.
    std::fs::rename(&app, folder.join("old")).expect("renames");
    std::fs::create_dir(&app).expect("creates");
    env::set_current_dir(&app).expect("enters");
    check();
    std::fs::remove_dir(&app).expect("removes");
    assert!(env::current_dir().is_err());
    check();
    println!("all well");
}

fn the_directory_is_the_parents_whatever_its_path_leads_to() -> Outcome {
    let folder = Folder::new()?;
    let (_, out, err) = run_role("moves", &[folder.to_str().expect("text")])?;
    assert_eq!(out, "all well\n", "{err}");
    Ok(())
}

fn changes_its_user(_: &[String]) {
    multiprocess::init();
    fn rights() -> String {
        let status = std::fs::read_to_string("/proc/self/status").expect("proc");
        // Real and effective: execve(2) saves the effective one.
        let ids = ["Uid:", "Gid:"].iter().flat_map(|name| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_ascii_whitespace().take(3)
        });
        let groups = status.lines().find(|line| line.starts_with("Groups:"));
        ids.chain(groups).collect::<Vec<_>>().join(" ")
    }
    let check = || {
        for method in StartMethod::ALL {
            let child = Process::new(rights, ()).start_method(method).start().expect("starts");
            assert_eq!(child.result().expect("ends"), rights(), "{method:?}");
        }
    };
    check();
    let earlier = Process::new(add, (1, 2)).start().expect("starts");
    // For a while.
    for user in [65_534, 0] {
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::seteuid(user) }, 0);
        check();
    }
    // SAFETY: takes a number and a pointer to one.
    assert_eq!(unsafe { libc::setgroups(1, [65_534].as_ptr()) }, 0);
    check();
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::setresgid(65_534, 65_534, 65_534) }, 0);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setresuid(65_534, 65_534, 65_534) }, 0);
    check();
    assert_eq!(earlier.result().expect("ends"), 3, "of a helper that was replaced");
    println!("all well");
}

fn users_and_groups_are_those_of_the_parent_now() -> Outcome {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        println!("NOT TESTED: only root may change its user");
        return Ok(());
    }
    let (_, out, err) = run_role("changes-its-user", &[])?;
    assert_eq!(out, "all well\n", "{err}");
    Ok(())
}

fn replaced(_: &[String]) {
    multiprocess::init();
    let program = env::current_exe().expect("a path");
    std::fs::remove_file(&program).expect("removes");
    std::fs::write(&program, "#!/bin/false\n").expect("writes");
    for method in StartMethod::ALL {
        let child = Process::new(add, (1, 2)).start_method(method).start().expect("starts");
        assert_eq!(child.result().expect("ends"), 3);
    }
    println!("all well");
}

fn a_replaced_and_deleted_program_still_starts_itself() -> Outcome {
    let folder = Folder::new()?;
    let path = folder.path("program");
    std::fs::copy("/proc/self/exe", &path)?;
    let output = std::process::Command::new(&path)
        .args(["--mp-role", "replaced"])
        .stdin(Stdio::null())
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "all well\n", "{error}");
    Ok(())
}

fn ignores_sigchld(_: &[String]) {
    multiprocess::init();
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    for method in StartMethod::ALL {
        let child = Process::new(add, (1, 2)).start_method(method).start().expect("starts");
        let status = child.join().expect("joins");
        println!("{} {:?}", status.success(), child.result().expect("ends"));
        let killed = Process::new(sleep_for_ever, ()).start_method(method).start().expect("starts");
        killed.kill().expect("signals");
        killed.join().expect("joins");
    }
}

fn a_program_that_ignores_sigchld_still_gets_results() -> Outcome {
    let (_, out, err) = run_role("ignores-sigchld", &[])?;
    assert_eq!(out, "true 3\ntrue 3\ntrue 3\n", "{err}");
    Ok(())
}

fn dies_early(_: &[String]) {
    // A constructor, say, that ends the process when it is executed again.
    if io::stdin().as_fd().try_clone_to_owned().is_ok_and(|fd| {
        let mut kind: libc::c_int = 0;
        let mut len = 4;
        // SAFETY: an int and its size.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_TYPE,
                (&raw mut kind).cast(),
                &raw mut len,
            )
        };
        result == 0
    }) {
        std::process::exit(77);
    }
    multiprocess::init();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        println!("{}", Process::new(add, (1, 2)).start_method(method).start().unwrap_err());
    }
}

fn start_says_what_happened_to_a_child_that_died_early() -> Outcome {
    let (_, out, err) = run_role("dies-early", &[])?;
    let line = "the new process exited with code 77 before it could run its target\n";
    assert_eq!(out, line.repeat(2), "{err}");
    Ok(())
}

fn takes_over_orphans(_: &[String]) {
    multiprocess::init();
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
    let mut left = Vec::new();
    for _ in 0..10 {
        let living = Process::new(sleep_for_ever, ()).start().expect("starts");
        assert_eq!(Process::new(add, (1, 2)).start().expect("starts").result().expect("ends"), 3);
        let is_server = |&(pid, _): &(u32, char)| left.iter().all(|other: &u32| *other != pid);
        let ours = children_of(std::process::id());
        let (server, _) = ours.into_iter().find(is_server).expect("a helper");
        eventually("it has all ready, and nothing to do", || {
            children_of(server).len() == 3 && leak::state(server) == Some('S')
        })
        .expect("comes about");
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::kill(server as i32, libc::SIGKILL) }, 0);
        // Until then, what it has ready may be started.
        eventually("it has ended", || leak::state(server) == Some('Z')).expect("comes about");
        left.push(living.pid());
        drop(living);
    }
    let child = Process::new(add, (1, 2)).start().expect("starts");
    assert_eq!(child.result().expect("ends"), 3);
    for child in active_children() {
        child.kill().expect("signals");
        child.join().expect("joins");
    }
    println!("{:?}", children_of(std::process::id()).iter().filter(|it| it.1 == 'Z').count());
}

fn a_program_that_takes_over_orphans_has_no_zombies_of_a_fork_server() -> Outcome {
    let (_, out, err) = run_role("takes-over-orphans", &[])?;
    assert_eq!(out, "0\n", "{err}");
    Ok(())
}

fn moves_its_children(_: &[String]) {
    multiprocess::init();
    // SAFETY: takes numbers only.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        println!("NOT TESTED: {}", io::Error::last_os_error());
        return;
    }
    for method in StartMethod::ALL {
        match Process::new(add, (1, 2)).start_method(method).start() {
            Ok(child) => println!("{method:?}: {}", child.result().expect("ends")),
            Err(error) => println!("{method:?}: {error}"),
        }
    }
}

fn children_in_another_pid_namespace_are_refused_but_for_forks() -> Outcome {
    let (_, out, err) = run_role("moves-its-children", &[])?;
    if out.starts_with("NOT TESTED") {
        println!("{out}");
        return Ok(());
    }
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}{err}");
    for line in &lines[..2] {
        assert!(
            line.contains("another PID namespace") && line.contains("StartMethod::Fork,"),
            "{out}"
        );
    }
    assert_eq!((lines[2], err.as_str()), ("Fork: 3", ""));
    Ok(())
}

fn cannot_watch(_: &[String]) {
    multiprocess::init();
    seccomp::refuse(&[seccomp::Call::all(libc::SYS_epoll_ctl, libc::ENOSPC)]).expect("refuses");
    for method in StartMethod::ALL {
        let child = Process::new(add, (1, 2)).start_method(method).start().expect("starts");
        assert_eq!(child.result().expect("ends"), 3, "{method:?}");
        // One that nobody waits for.
        let child = Process::new(add, (1, 2)).start_method(method).start().expect("starts");
        let pid = child.pid();
        drop(child);
        eventually("it is reaped at a later start", || {
            let next = Process::new(add, (1, 2)).start_method(method).start();
            next.is_ok_and(|next| next.join().is_ok())
                && children_of(std::process::id()).iter().all(|child| child.0 != pid)
        })
        .expect("comes about");
    }
    println!("{:?}", start_family());
}

fn a_child_that_cannot_be_watched_is_started_and_joined() -> Outcome {
    family_ends("cannot-watch", 0)
}

fn cannot_watch_at_all(arguments: &[String]) {
    multiprocess::init();
    seccomp::refuse(&[seccomp::Call::all(libc::SYS_epoll_create1, libc::EMFILE)]).expect("refuses");
    let come = |path: String| drop(File::create(path));
    for method in StartMethod::ALL {
        let child = Process::new(come, (arguments[0].clone(),)).start_method(method);
        println!("{}", matches!(child.start(), Err(Error::Io { .. })));
    }
}

fn what_cannot_be_watched_at_all_is_not_started() -> Outcome {
    let folder = Folder::new()?;
    let path = folder.path("was-here");
    let (_, out, err) = run_role("cannot-watch-at-all", &[path.to_str().expect("text")])?;
    assert_eq!(out, "true\n".repeat(3), "{err}");
    assert!(!path.exists(), "a target ran");
    Ok(())
}

fn a_number_used_again_is_another_process() -> Outcome {
    // The kernel goes on behind this number.
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    // Each start looks for the ends of 64.
    const MANY: usize = 4 * 64 + 4;
    if !may_open(4 * MANY as u64) {
        return Ok(());
    }
    for _ in 0..20 {
        let start = |_| Process::new(sleep_for_ever, ()).start();
        let old = (0..MANY).map(start).collect::<Result<Vec<_>, _>>()?;
        for child in &old {
            child.kill()?;
            // Not by a method that looks for its end.
            assert!(wait_readable(child.as_fd(), Deadline::after(HANG))?);
        }
        let last = &old[MANY - 1];
        eventually("its number is free", || leak::state(last.pid()).is_none())?;
        let mut new = Vec::new();
        for _ in 0..4 {
            if std::fs::write(LAST, (last.pid() - 1).to_string()).is_err() {
                println!("NOT TESTED: numbers cannot be chosen");
                return Ok(());
            }
            new.push(start(0)?);
        }
        let same = new.iter().find(|child| child.pid() == last.pid());
        if let Some(same) = same {
            assert!(!last.is_alive() && same.is_alive());
            assert_eq!(active_children().len(), 4, "{:?}", active_children());
            assert!(active_children().is_sorted_by_key(|child| child.pid()));
        }
        let found = same.is_some();
        for child in &new {
            child.kill()?;
            child.join()?;
        }
        assert!(active_children().is_empty());
        if found {
            return Ok(());
        }
    }
    println!("NOT TESTED: others were quicker each time");
    Ok(())
}

fn never_comes(arguments: &[String]) {
    // As in `init_not_reached`; but whoever comes later stays.
    if std::path::Path::new(&arguments[0]).exists() {
        sleep_for_ever();
    }
    File::create(&arguments[0]).expect("creates");
    multiprocess::init();
    let start = |method| Process::new(add, (1, 2)).start_method(method).start().unwrap_err();
    let spawn = thread::spawn(move || start(StartMethod::Spawn));
    for error in [start(StartMethod::ForkServer), spawn.join().expect("no panic")] {
        println!("{}", matches!(error, Error::StartTimedOut));
    }
    println!("{} are left", children_of(std::process::id()).len());
}

fn a_child_that_never_comes_to_its_target_is_killed_after_half_a_minute() -> Outcome {
    let folder = Folder::new()?;
    let path = folder.path("was-here");
    let (code, out, err) = run_role("never-comes", &[path.to_str().expect("text")])?;
    assert_eq!((code, out.as_str()), (0, "true\ntrue\n0 are left\n"), "{err}");
    Ok(())
}
