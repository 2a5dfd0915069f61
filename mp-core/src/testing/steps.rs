//! Plays in which a process is killed at each of its named steps in turn.
//!
//! A [`Scene`] is a function that has a process do something, the victim, and looks what becomes of the others.
//! It is played once without a kill, to see which steps the victim passes and how often. Then it is played
//! again for each of them: with the victim killed there, and with it stopped there for a while, so that
//! the others come upon it as it is, before it is killed. At a step called "... about to sleep", it is
//! also played with the victim killed, or stopped, some milliseconds later: while it sleeps.
//!
//! Who plays the victim is the scene's affair: who holds a lock, who waits for it, who finds its owner dead and
//! is killed while it puts things in order. The processes that the victim starts take part, whether
//! forked or executed, and it is the same count of passes for all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::{Child, Trial, WATCHDOG, shared, signalled_after, wait_until, watched};
use crate::sys::mem::memfd;
use crate::sys::process;

/// How long a victim is stopped before it is killed: longer than the longest nap of who waits.
pub const STOPPED: Duration = Duration::from_millis(40);
/// How much later than its step it is killed that is to be asleep then.
const LATER: Duration = Duration::from_millis(4);

/// How a victim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// By SIGKILL.
    Killed,
    /// By SIGSTOP, and after [`STOPPED`] by SIGKILL.
    Stopped,
}

/// What is played, and under which name.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// What it is about, and who the victim is: "lock, waiter".
    pub name: &'static str,
    /// Has [`Stage::victim`] do something, and panics where others suffer from its end.
    pub play: fn(&Stage),
}

/// Where the victim of a play is to end.
#[derive(Clone, Copy, Debug)]
struct Target {
    step: &'static str,
    pass: u32,
    fate: Fate,
    asleep: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, pass, fate, asleep } = self;
        let asleep = if *asleep { ", a little later" } else { "" };
        write!(f, "{fate:?} at \"{step}\", pass {pass}{asleep}")
    }
}

/// What a play has to do with its victim.
#[derive(Debug)]
pub struct Stage {
    target: Option<Target>,
}

impl Stage {
    /// Forks the victim, which ends at its step, or after `body`.
    ///
    /// There can be several; the first that comes to the step is the one.
    pub fn victim(&self, body: impl FnOnce()) -> Child {
        Child::new(|| {
            self.join();
            body();
        })
    }

    /// Has this process, and those it starts from now on, take part: whoever of them comes to the step first
    /// ends there. For steps that the calling process does not come to itself.
    ///
    /// # Panics
    ///
    /// Never, as [`tests`] made what is joined.
    pub fn join(&self) {
        let file = BOARD.get().expect("made before the first play");
        JOINED.store(std::ptr::from_ref(board(file)).cast_mut(), SeqCst);
        let path = format!("/proc/{}/fd/{}", file.1, file.0.as_raw_fd());
        // SAFETY: there is one thread, as `watched` saw.
        unsafe { std::env::set_var(VARIABLE, path) };
    }

    /// Has another process run `body` first, and be killed at the `pass`th passing of `step`: so that the
    /// victim can be who finds it dead.
    ///
    /// # Panics
    ///
    /// Where it does not come to that.
    #[track_caller]
    pub fn dies_at(&self, step: &str, pass: u32, body: impl FnOnce()) {
        let child = Child::new(|| {
            crate::crash::arm(step, pass);
            body();
        });
        assert!(child.was_killed(), "nobody died at \"{step}\"");
    }

    /// The name of the step at which the victim is to end; `None` while only its steps are looked at.
    #[must_use]
    pub fn step(&self) -> Option<&'static str> {
        self.target.map(|target| target.step)
    }

    /// Whether the victim stays stopped for a while.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.target.is_some_and(|target| target.fate == Fate::Stopped)
    }

    /// Whether the victim goes on for a little after its step, to sleep as a rule, and ends then.
    #[must_use]
    pub fn is_later(&self) -> bool {
        self.target.is_some_and(|target| target.asleep)
    }

    /// Whether somebody came to the step, and ends there, or a little later, or did.
    #[must_use]
    pub fn is_hit(&self) -> bool {
        self.who() != 0
    }

    /// Who came to the step; 0 while nobody did.
    ///
    /// # Panics
    ///
    /// Never, as for [`join`](Self::join).
    #[must_use]
    pub fn who(&self) -> u32 {
        board(BOARD.get().expect("made before the first play")).hit.load(SeqCst) as u32
    }

    /// Waits until somebody came to the step, or the victim has ended; says whether the former.
    #[must_use]
    pub fn await_hit(&self, victim: &Child) -> bool {
        wait_until(|| self.is_hit() || victim.has_ended());
        self.is_hit()
    }

    /// Waits for the end of the victim; says whether it was killed. If not, it ended well, without having
    /// come to the step.
    ///
    /// # Panics
    ///
    /// Where it failed, or ended in spite of having come to the step.
    #[track_caller]
    #[must_use]
    pub fn ends(&self, victim: Child) -> bool {
        let who = victim.pid();
        let killed = victim.was_killed();
        // It may have been quicker than the signal.
        assert!(killed == (self.who() == who) || self.is_later(), "killed: {killed}");
        killed
    }
}

/// Under which name processes that are executed find the board.
const VARIABLE: &str = "MP_CRASH";
const ENTRIES: usize = 250;

/// What all that take part share.
#[repr(C)]
struct Board {
    /// The mark of the step at which to end; 0: none.
    step: AtomicU64,
    /// How many passes it still takes, the last of which is the one.
    left: AtomicU64,
    /// 1: stop first. 2: a little later. Both may be.
    how: AtomicU64,
    /// Who came to it.
    hit: AtomicU64,
    /// The marks of the steps that were passed, and how often.
    passed: [[AtomicU64; 2]; ENTRIES],
}

const WORDS: usize = size_of::<Board>() / 8;

/// The file that the board is in, and the process that has it open under that number.
static BOARD: OnceLock<(File, u32)> = OnceLock::new();
/// The board, where this process takes part. Null: it has not looked yet. [`NOT_JOINED`]: it does not.
static JOINED: AtomicPtr<Board> = AtomicPtr::new(std::ptr::null_mut());
const NOT_JOINED: *mut Board = std::ptr::dangling_mut();

fn board((file, _): &(File, u32)) -> &'static Board {
    static MAPPED: OnceLock<&'static Board> = OnceLock::new();
    MAPPED.get_or_init(|| map(file))
}

fn map(file: &File) -> &'static Board {
    let words = shared(file, WORDS);
    // SAFETY: as many atomics as a Board is made of, in memory that stays mapped.
    unsafe { &*words.as_ptr().cast::<Board>() }
}

/// An FNV hash of the name; not 0.
fn mark(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    }) | 1
}

/// Whether this process was executed by one that takes part in a play.
#[must_use]
pub fn is_joined() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// What [`crash_point!`](crate::crash_point) comes to.
pub(crate) fn point(name: &str) {
    let mut joined = JOINED.load(SeqCst);
    if joined.is_null() {
        joined = match std::env::var_os(VARIABLE)
            .map(|path| File::options().read(true).write(true).open(path))
        {
            Some(Ok(file)) => std::ptr::from_ref(map(&file)).cast_mut(),
            // Not set, or who set it is gone.
            _ => NOT_JOINED,
        };
        JOINED.store(joined, SeqCst);
    }
    if joined != NOT_JOINED {
        // SAFETY: a mapping that stays, as map() gave it, of atomics.
        unsafe { &*joined }.pass(mark(name));
    }
}

impl Board {
    fn set(&self, target: Option<Target>) {
        self.step.store(0, SeqCst);
        self.hit.store(0, SeqCst);
        for [mark, count] in &self.passed {
            mark.store(0, SeqCst);
            count.store(0, SeqCst);
        }
        if let Some(target) = target {
            let how = u64::from(target.fate == Fate::Stopped) | u64::from(target.asleep) << 1;
            self.how.store(how, SeqCst);
            self.left.store(target.pass.into(), SeqCst);
            self.step.store(mark(target.step), SeqCst);
        }
    }

    fn pass(&self, mark: u64) {
        let start = mark as usize % ENTRIES;
        let mine =
            (start..ENTRIES).chain(0..start).map(|entry| &self.passed[entry]).find(|entry| {
                entry[0].load(SeqCst) == mark
                    || entry[0].compare_exchange(0, mark, SeqCst, SeqCst).is_ok()
                    || entry[0].load(SeqCst) == mark
            });
        mine.expect("room for each step")[1].fetch_add(1, SeqCst);
        // At 0 it was another's turn already, and the count goes round below zero.
        if self.step.load(SeqCst) == mark && self.left.fetch_sub(1, SeqCst) == 1 {
            self.hit.store(std::process::id().into(), SeqCst);
            self.end();
        }
    }

    fn end(&self) {
        let how = self.how.load(SeqCst);
        let later = if how & 2 != 0 { LATER } else { Duration::ZERO };
        if how == 0 {
            process::kill_self();
        }
        signalled_after(if how & 1 != 0 { later + STOPPED } else { later }, libc::SIGKILL);
        if how == 3 {
            signalled_after(later, libc::SIGSTOP);
        } else if how == 1 {
            // SAFETY: takes a number only.
            unsafe { libc::raise(libc::SIGSTOP) };
            // Whoever had it continue has to wait for the timer.
            std::thread::sleep(WATCHDOG);
        }
    }

    fn count(&self, name: &str) -> u64 {
        let mark = mark(name);
        let entry = self.passed.iter().find(|entry| entry[0].load(SeqCst) == mark);
        entry.map_or(0, |entry| entry[1].load(SeqCst))
    }
}

/// Each step that sources give a name to.
///
/// # Panics
///
/// Where two have the same.
#[must_use]
pub fn named_in(sources: &[&'static str]) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for source in sources {
        names.extend(
            source.split("crash_point!(\"").skip(1).filter_map(|call| call.split('"').next()),
        );
    }
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "the same name twice: {twice:?}");
    names
}

/// At which passing of a step victims end, where there are as many: the first may find things as they were
/// made, the second as they are in use, a later one in the middle of it.
const PASSES: [u32; 3] = [1, 2, 9];

/// How often all scenes are played again for a step that was missed.
const AGAIN: u32 = 10;

/// Who was really killed, where, and which scenes were played for it.
#[derive(Default)]
struct Done {
    hits: BTreeSet<(&'static str, Fate)>,
    played: BTreeSet<(&'static str, Fate)>,
}

static DONE: Mutex<Option<Done>> = Mutex::new(None);

fn done<R>(change: impl FnOnce(&mut Done) -> R) -> R {
    change(DONE.lock().expect("one thread").get_or_insert_default())
}

/// Makes a test for each scene and fate, and one more that fails where a step that `sources` name was never
/// reached by any. For [`run`](super::run), in this order.
///
/// # Panics
///
/// Where two steps have one name, and where there is no memory file to be had.
#[must_use]
pub fn tests(scenes: &'static [Scene], sources: &[&'static str]) -> Vec<Trial> {
    let names: &'static [&'static str] = named_in(sources).leak();
    BOARD.get_or_init(|| {
        let file = File::from(memfd(c"steps").expect("memfd"));
        file.set_len(8 * WORDS as u64).expect("room");
        (file, std::process::id())
    });
    let mut tests: Vec<Trial> = Vec::new();
    for fate in [Fate::Killed, Fate::Stopped] {
        for scene in scenes {
            let name =
                format!("{}: {} at each step", scene.name, format!("{fate:?}").to_lowercase());
            tests.push(Trial::test(name, move || Ok(each_step(scene, fate, names)?)));
        }
    }
    tests.push(Trial::test("every step that has a name is reached", move || {
        Ok(all_reached(scenes, names)?)
    }));
    tests
}

/// Plays the scene; gives how often each step was passed.
fn play(
    scene: &Scene,
    target: Option<Target>,
    names: &[&'static str],
) -> Result<BTreeMap<&'static str, u64>, String> {
    let board = board(BOARD.get().expect("tests() made it"));
    board.set(target);
    let result = watched(WATCHDOG, || (scene.play)(&Stage { target }));
    // Where the scene had this process take part.
    JOINED.store(NOT_JOINED, SeqCst);
    // SAFETY: there is one thread, as `watched` saw.
    unsafe { std::env::remove_var(VARIABLE) };
    board.step.store(0, SeqCst);
    result.map_err(|error| match target {
        Some(target) => format!("{}: {target}: {error}", scene.name),
        None => format!("{}, without a kill: {error}", scene.name),
    })?;
    let counts = names.iter().map(|&name| (name, board.count(name)));
    Ok(counts.filter(|&(_, count)| count > 0).collect())
}

/// Whether somebody came to the step of the last play.
fn was_hit() -> bool {
    board(BOARD.get().expect("tests() made it")).hit.load(SeqCst) != 0
}

fn each_step(scene: &Scene, fate: Fate, names: &[&'static str]) -> Result<(), String> {
    let start = Instant::now();
    // Twice, as some steps are a matter of who was first.
    let mut steps = play(scene, None, names)?;
    for (step, count) in play(scene, None, names)? {
        let most = steps.entry(step).or_default();
        *most = count.max(*most);
    }
    if steps.is_empty() {
        return Err(format!("{}: it passes no step", scene.name));
    }
    let mut kills = 0;
    let mut missed = Vec::new();
    for (&step, &count) in &steps {
        let mut hit = false;
        for pass in PASSES.into_iter().filter(|&pass| u64::from(pass) <= count) {
            let later = step.ends_with("about to sleep");
            for asleep in [false, true].into_iter().take(1 + usize::from(later)) {
                let target = Target { step, pass, fate, asleep };
                // It is not passed each time, where that is a matter of who was first.
                for _ in 0..if hit { 1 } else { 5 } {
                    play(scene, Some(target), names)?;
                    if was_hit() {
                        hit = true;
                        kills += 1;
                        break;
                    }
                }
            }
        }
        if hit {
            done(|done| done.hits.insert((step, fate)));
        } else {
            missed.push(step);
        }
    }
    done(|done| done.played.insert((scene.name, fate)));
    eprintln!(
        "{}: {fate:?} {kills} times, at {} steps, in {:?}{}",
        scene.name,
        steps.len() - missed.len(),
        start.elapsed(),
        if missed.is_empty() { String::new() } else { format!("; missed: {missed:?}") },
    );
    Ok(())
}

/// Whether a victim ends at that step after all: on a busy machine one can be missed that is a matter of who was first.
fn is_reached(
    scenes: &[Scene],
    step: &'static str,
    fate: Fate,
    names: &[&'static str],
) -> Result<bool, String> {
    let target = Target { step, pass: 1, fate, asleep: false };
    for _ in 0..AGAIN {
        for scene in scenes {
            play(scene, Some(target), names)?;
            if was_hit() {
                eprintln!("{}: {target}, at last", scene.name);
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Where all scenes were played: whether a process was killed at each step, in each way. Else whether the scenes
/// pass each step.
fn all_reached(scenes: &[Scene], names: &[&'static str]) -> Result<(), String> {
    let missing: Vec<String> = if done(|done| done.played.len() == 2 * scenes.len()) {
        let fates = [Fate::Killed, Fate::Stopped];
        let all = names.iter().flat_map(|&name| fates.map(|fate| (name, fate)));
        let missed: Vec<_> = done(|done| all.filter(|at| !done.hits.contains(at)).collect());
        let mut missing = Vec::new();
        for (step, fate) in missed {
            if !is_reached(scenes, step, fate, names)? {
                missing.push(format!("{:?}", (step, fate)));
            }
        }
        missing
    } else {
        let mut reached = BTreeSet::new();
        for scene in scenes {
            reached.extend(play(scene, None, names)?.into_keys());
        }
        names.iter().filter(|name| !reached.contains(*name)).map(|&name| name.to_owned()).collect()
    };
    if names.is_empty() || !missing.is_empty() {
        return Err(format!("of {} steps, never reached: {missing:?}", names.len()));
    }
    Ok(())
}
