//! CPython's rows: `python.py` beside Cargo.toml runs them and prints a line of numbers.

use std::process::Command;

use crate::harness::{Figure, NotHere, Outcome, Run};
use crate::raw::process;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python.py");

/// The interpreter itself, where `python3` is a script that looks for it, which takes longer than a row.
pub const PYTHON: &str = "COMPARE_PYTHON";

/// What `case` comes to in CPython. More arguments are the case's.
pub fn python(run: &Run, case: &str, more: &[&str]) -> Outcome {
    let setup = &run.setup;
    let mut cores = process::cores().into_iter().map(|core| core.to_string());
    let (one, two) = (cores.next().unwrap_or_default(), cores.next().unwrap_or_default());
    let cores = match setup.cores {
        crate::harness::Cores::Any => String::new(),
        crate::harness::Cores::One => format!("{one},{one}"),
        crate::harness::Cores::Two => format!("{one},{two}"),
    };
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".into());
    let output = Command::new(python)
        .args([SCRIPT, case])
        .args([&run.time.as_secs_f64().to_string(), &setup.size.to_string(), &cores])
        .args([setup.producers.to_string(), setup.consumers.to_string()])
        .args(more)
        .stderr(std::process::Stdio::inherit())
        .output();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(NotHere("python3 is not installed".into()).into());
        }
        output => output?,
    };
    if !output.status.success() {
        return Err(format!("python3 ended with {}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let value = numbers.next().ok_or("python3 printed nothing")??;
    Ok(Figure { value, p99: numbers.next().transpose()? })
}
