//! Runs rows, each in a process of its own with a time limit, and clears away what they leave.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Case, Cores, Figure, NotHere, Outcome, Row, Run};
use crate::raw::process;

/// The first argument of a process that runs one row; then the case, the row and the milliseconds.
pub const ROW: &str = "--row";

/// How names begin that this run makes in /dev/shm.
const PREFIX: &str = "COMPARE_PREFIX";

pub struct Effort {
    /// How often each row runs.
    pub rounds: usize,
    /// How long it measures.
    pub time: Duration,
    /// How long it may take in all.
    pub limit: Duration,
}

/// A row and what became of it.
pub struct Measured {
    pub row: &'static Row,
    pub figures: Vec<Figure>,
    /// Why there are no more figures.
    pub trouble: Option<Trouble>,
    /// Files and processes that were there after the row had ended by itself, at most.
    pub left: Left,
}

pub enum Trouble {
    NotHere(String),
    Failed(String),
}

#[derive(Clone, Copy, Default)]
pub struct Left {
    pub files: usize,
    pub processes: usize,
}

impl Measured {
    /// The median, and the least and greatest.
    pub fn summary(&self) -> Option<Summary> {
        let mut values: Vec<f64> = self.figures.iter().map(|figure| figure.value).collect();
        values.sort_by(f64::total_cmp);
        let mut p99s: Vec<f64> = self.figures.iter().filter_map(|figure| figure.p99).collect();
        p99s.sort_by(f64::total_cmp);
        Some(Summary {
            median: *values.get(values.len() / 2)?,
            least: values[0],
            greatest: values[values.len() - 1],
            p99: p99s.get(p99s.len() / 2).copied(),
        })
    }
}

pub struct Summary {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
    pub p99: Option<f64>,
}

/// Runs one row and prints what came of it: the whole of the process that [`all`] starts.
pub fn row(case: &str, row: &str, millis: &str) {
    process::die_with_parent();
    let mut cases = crate::cases::all();
    cases.push(crate::cases::check::CASE);
    let case = cases.iter().find(|one| one.name == case).expect("a case");
    let row = case.rows.iter().find(|one| one.name == row).expect("a row");
    let time = Duration::from_millis(millis.parse().expect("milliseconds"));
    let run = Run { setup: case.setup, time };
    match outcome(row, &run) {
        Ok(Figure { value, p99: Some(p99) }) => println!("figure {value} {p99}"),
        Ok(Figure { value, p99: None }) => println!("figure {value}"),
        Err(error) if error.is::<NotHere>() => println!("not here: {error}"),
        Err(error) => println!("failed: {error}"),
    }
}

fn outcome(row: &Row, run: &Run) -> Outcome {
    if run.setup.cores == Cores::Two && process::cores().len() < 2 {
        return Err(NotHere("there is one core only".into()).into());
    }
    (row.run)(run)
}

/// The name that this run's files begin with.
pub fn prefix() -> String {
    std::env::var(PREFIX).expect("set for each row")
}

/// Runs all rows of all cases: those of a case in turn, so that a drift of the machine hits all of them.
pub fn all(cases: Vec<Case>, effort: &Effort, python: Option<&str>) -> Vec<(Case, Vec<Measured>)> {
    process::adopt_orphans();
    let scratch = Scratch::new();
    let mut results = Vec::new();
    for case in cases {
        println!("\n{}: {}", case.name, case.what);
        let fresh = |row| Measured { row, figures: vec![], trouble: None, left: Left::default() };
        let mut rows: Vec<Measured> = case.rows.iter().map(fresh).collect();
        for _ in 0..effort.rounds {
            for measured in &mut rows {
                // One failure is enough: another hang would cost the whole limit again.
                if measured.trouble.is_none() {
                    once(&case, measured, effort, &scratch, python);
                }
            }
        }
        for measured in &rows {
            println!("  {:<46} {}", measured.row.name, crate::report::brief(&case, measured));
        }
        std::io::stdout().flush().expect("prints");
        results.push((case, rows));
    }
    results
}

fn once(
    case: &Case,
    measured: &mut Measured,
    effort: &Effort,
    scratch: &Scratch,
    python: Option<&str>,
) {
    let out = scratch.0.join("out");
    let err = scratch.0.join("err");
    let output =
        |path: &Path| Stdio::from(File::create(path).expect("a file in the scratch folder"));
    let mut command = Command::new("/proc/self/exe");
    command.args([ROW, case.name, measured.row.name, &effort.time.as_millis().to_string()]);
    command.env("RUST_BACKTRACE", "0").env("TMPDIR", scratch.tmp()).env(PREFIX, scratch.prefix());
    if let Some(python) = python {
        command.env(crate::cases::python::PYTHON, python);
    }
    command.stdin(Stdio::null()).stdout(output(&out)).stderr(output(&err)).process_group(0);
    let mut child = command.spawn().expect("executes this program again");
    let ended = process::wait_ended(child.id(), effort.limit);
    if ended {
        measured.left = measured.left.max(scratch.left(child.id()));
    }
    process::kill_group(child.id());
    let status = child.wait().expect("is reaped");
    scratch.clear();

    let text = fs::read_to_string(&out).unwrap_or_default();
    let last = text.lines().last().unwrap_or_default();
    if !ended {
        let limit = effort.limit.as_secs();
        measured.trouble = Some(Trouble::Failed(format!("did not end within {limit} s")));
    } else if let Some(numbers) = last.strip_prefix("figure ") {
        let mut numbers = numbers.split(' ').map(|number| number.parse::<f64>().expect("a number"));
        let value = numbers.next().expect("a number");
        measured.figures.push(Figure { value, p99: numbers.next() });
    } else if let Some(why) = last.strip_prefix("not here: ") {
        measured.trouble = Some(Trouble::NotHere(why.to_string()));
    } else {
        let errors = fs::read_to_string(&err).unwrap_or_default();
        let said = errors.lines().rfind(|line| !line.is_empty() && !line.starts_with("note: "));
        let ended = match status.signal() {
            Some(signal) => format!("killed by signal {signal}"),
            None => last.strip_prefix("failed: ").unwrap_or("ended without a figure").to_string(),
        };
        let said = said.map(|line| format!(" ({line})")).unwrap_or_default();
        measured.trouble = Some(Trouble::Failed(ended + &said));
    }
}

impl Left {
    /// In words, where there is something.
    pub fn said(self) -> Option<String> {
        let Left { files, processes } = self;
        let any = files + processes > 0;
        any.then(|| format!("left {files} files and {processes} processes behind"))
    }

    fn max(self, other: Left) -> Left {
        Left { files: self.files.max(other.files), processes: self.processes.max(other.processes) }
    }
}

/// Where rows put their temporary files. Removed at the end, as are names in /dev/shm that carry the prefix.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let scratch = Self(Self::path());
        fs::create_dir_all(scratch.tmp()).expect("makes the scratch folder");
        scratch
    }

    fn path() -> PathBuf {
        std::env::temp_dir().join(format!("compare-{}", std::process::id()))
    }

    fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    fn prefix(&self) -> String {
        format!("compare_{}_", std::process::id())
    }

    /// What is there that the last row made, a moment after it ended.
    fn left(&self, leader: u32) -> Left {
        // Servers that watch their parent need that moment; the row itself waits to be reaped.
        let limit = Instant::now() + Duration::from_millis(200);
        let alive = || {
            process::children().into_iter().filter(|pid| *pid != leader && !is_zombie(*pid)).count()
        };
        while alive() > 0 && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        Left { files: count_files(&self.tmp()) + self.shared().len(), processes: alive() }
    }

    fn shared(&self) -> Vec<PathBuf> {
        let names = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        let ours = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().contains(&self.prefix()))
        };
        names.map(|entry| entry.path()).filter(ours).collect()
    }

    /// Ends the processes and removes the files of the last row, which was reaped.
    fn clear(&self) {
        // Orphans of orphans come one generation at a time.
        let limit = Instant::now() + Duration::from_secs(5);
        loop {
            process::reap();
            let children = process::children();
            if children.is_empty() || Instant::now() > limit {
                break;
            }
            children.into_iter().for_each(process::kill);
            std::thread::sleep(Duration::from_millis(1));
        }
        self.shared().iter().for_each(|path| {
            let _ = fs::remove_file(path);
        });
        let _ = fs::remove_dir_all(self.tmp());
        fs::create_dir_all(self.tmp()).expect("makes the scratch folder");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_zombie(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

/// Runs the rows that go wrong and says whether each was reported, and everything cleared away.
pub fn check() -> bool {
    let limit = Duration::from_secs(1);
    let effort = Effort { rounds: 2, time: Duration::from_millis(1), limit };
    let results = all(vec![crate::cases::check::CASE], &effort, None);
    let rows = results.iter().flat_map(|(case, rows)| rows.iter().map(move |row| (case, row)));
    let said = rows.map(|(case, row)| crate::report::brief(case, row));
    let scratch = Scratch::path();
    said.eq(crate::cases::check::SAID) && !scratch.exists() && process::children().is_empty()
}

/// Files below a folder.
fn count_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => count_files(&entry.path()),
        _ => 1,
    };
    entries.map(count).sum()
}
