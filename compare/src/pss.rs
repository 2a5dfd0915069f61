//! What both programs of `worker_memory_idle` need.

use std::error::Error;
use std::time::Duration;

pub type Outcome = Result<f64, Box<dyn Error>>;

/// The mean PSS of these processes, in KiB, once they have come to rest.
pub fn pss(pids: &[u32]) -> Outcome {
    std::thread::sleep(Duration::from_millis(50));
    let mut sum = 0.0;
    for pid in pids {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
        sum += line.trim().trim_end_matches(" kB").parse::<f64>()?;
    }
    Ok(sum / pids.len() as f64)
}

/// Tells the process that started this one.
pub fn said(outcome: Outcome) {
    match outcome {
        Ok(kib) => println!("{kib}"),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
