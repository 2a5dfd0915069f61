//! What a report must say of where its figures come from.

use std::process::Command;

pub struct Machine {
    /// The path of CPython's interpreter.
    pub python: Option<String>,
    pub lines: Vec<String>,
    pub missing: Vec<String>,
}

const LOCK: &str = include_str!("../Cargo.lock");
const PEERS: [&str; 5] = ["ipc-channel", "iceoryx2", "procspawn", "crossbeam-channel", "rayon"];

impl Machine {
    pub fn look() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = file("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let model = model.map_or("unknown processor", |(_, name)| name);
        let memory = file("/proc/meminfo");
        let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
        let kernel = file("/proc/sys/kernel/osrelease");
        let load = file("/proc/loadavg");
        let load = load.split(' ').next().unwrap_or("unknown");
        let unknown = || "unknown".to_string();

        let mut lines = vec![
            format!("- {} cores: {model}", crate::raw::process::cores().len()),
            format!("- {:.0} GiB of memory", memory.unwrap_or(0.0) / f64::from(1 << 20)),
            format!("- Linux {}", kernel.trim()),
            format!("- load when the run began: {load}"),
            format!("- commit {}", commit().unwrap_or_else(unknown)),
            format!("- {}", said("rustc", &["--version"]).unwrap_or_else(unknown)),
            format!("- measured on {}", said("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(unknown)),
        ];
        let mut missing = Vec::new();
        let mut peers: Vec<_> =
            PEERS.iter().map(|peer| format!("{peer} {}", versions(peer).join(" and "))).collect();
        match said("python3", &["--version"]) {
            Some(version) => peers.push(version.replace("Python", "CPython")),
            None => missing.push("python3 is not installed".to_string()),
        }
        match said("redis-server", &["--version"]) {
            Some(text) => {
                let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="));
                peers.push(format!("redis {}", version.unwrap_or("of unknown version")));
            }
            None => missing.push("redis-server is not installed".to_string()),
        }
        lines.push(format!("- {}", peers.join(", ")));
        lines.extend(missing.iter().map(|missing| format!("- **{missing}**: rows left out")));
        let python = said("python3", &["-c", "import sys; print(sys.executable)"]);
        Self { python, lines, missing }
    }
}

/// The first line that a program prints.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_string())
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        said("git", &[&["-C", env!("CARGO_MANIFEST_DIR")], arguments].concat())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { commit + ", with changes" })
}

/// The versions of a crate in the lock file.
fn versions(name: &str) -> Vec<&'static str> {
    let key = format!("name = \"{name}\"");
    let mut lines = LOCK.lines();
    let mut versions = Vec::new();
    while let Some(line) = lines.next() {
        if line == key {
            let version = lines.next().and_then(|line| line.split('"').nth(1));
            versions.extend(version);
        }
    }
    versions
}
