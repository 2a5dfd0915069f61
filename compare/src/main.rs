//! Measures peers, and the bare mechanisms, beside the crates of this repository. See README.md.
//!
//! `compare [--quick] [case...]` runs all rows of the cases whose names contain one of the words, and writes the
//! report. Each row runs in a process of its own: this program, executed again.

mod cases;
mod chart;
mod drive;
mod harness;
mod machine;
mod raw;
mod report;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use harness::Case;

fn main() {
    // Each is where processes that the libraries start turn off to do their work.
    multiprocess::init();
    procspawn::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [cases::process::NOTHING] => {}
        [drive::ROW, case, row, millis] => drive::row(case, row, millis),
        ["--check"] => {
            let passed = drive::check();
            println!("\n{}", if passed { "as it should be" } else { "NOT as it should be" });
            std::process::exit(i32::from(!passed));
        }
        words => compare(words),
    }
}

fn compare(words: &[&str]) {
    let quick = words.contains(&"--quick");
    let wanted: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_wanted =
        |case: &Case| wanted.is_empty() || wanted.iter().any(|word| case.name.contains(*word));
    let cases: Vec<Case> = cases::all().into_iter().filter(is_wanted).collect();
    if cases.is_empty() || words.iter().any(|word| word.starts_with('-') && *word != "--quick") {
        eprintln!("usage: compare [--quick] [case...]; cases, or parts of their names:");
        cases::all().iter().for_each(|case| eprintln!("  {:<22} {}", case.name, case.what));
        std::process::exit(2);
    }
    let effort = if quick {
        drive::Effort { rounds: 3, time: Duration::from_millis(20), limit: Duration::from_secs(8) }
    } else {
        drive::Effort {
            rounds: 7,
            time: Duration::from_millis(300),
            limit: Duration::from_secs(20),
        }
    };
    let machine = machine::Machine::look();
    for missing in &machine.missing {
        println!("MISSING: {missing}, so its rows are left out");
    }
    let measured = drive::all(cases, &effort, machine.python.as_deref());

    let report = report::text(&measured, &machine, &effort, quick);
    let chart = chart::svg(&measured);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // What is no full run goes where it overwrites no full run.
    let (text_path, chart_path) = if quick || !wanted.is_empty() {
        (here.join("target/report/BENCHMARKS.md"), here.join("target/report/compare/chart.svg"))
    } else {
        (here.join("../BENCHMARKS.md"), here.join("chart.svg"))
    };
    for (path, content) in [(&text_path, &report), (&chart_path, &chart)] {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes the folder");
        std::fs::write(path, content).expect("writes the report");
    }
    println!("\n{}", report::verdict(&measured));
    println!("wrote {} and {}", text_path.display(), chart_path.display());
    std::io::stdout().flush().expect("prints");
}
