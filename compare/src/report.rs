//! The report: a table for each case, and where ours loses.

use std::fmt::Write;

use crate::drive::{Effort, Measured, Trouble};
use crate::harness::{Case, Kind, Unit, Waits};
use crate::machine::Machine;

/// A figure with its unit, three digits of it.
pub fn show(value: f64, unit: Unit) -> String {
    let digits = |value: f64| match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    match unit {
        Unit::Nanoseconds => format!("{} ns", digits(value)),
        Unit::Microseconds => format!("{} us", digits(value)),
        Unit::KiB => format!("{} KiB", digits(value)),
        Unit::GiBPerSecond => format!("{} GiB/s", digits(value)),
        Unit::PerSecond if value >= 1e6 => format!("{} M/s", digits(value / 1e6)),
        Unit::PerSecond if value >= 1e3 => format!("{} k/s", digits(value / 1e3)),
        Unit::PerSecond => format!("{}/s", digits(value)),
    }
}

/// How many times better `this` is than `that`.
pub fn better(unit: Unit, this: f64, that: f64) -> f64 {
    if unit.more_is_better() { this / that } else { that / this }
}

fn times(factor: f64) -> String {
    match factor {
        100.0.. => format!("{factor:.0}x"),
        0.1.. => format!("{factor:.2}x"),
        _ => format!("1/{:.0}", 1.0 / factor),
    }
}

/// The best row of a kind, and its median.
pub fn best<'a>(case: &Case, rows: &'a [Measured], kind: Kind) -> Option<(&'a Measured, f64)> {
    let all = rows.iter().filter(|row| row.row.kind == kind);
    let medians = all.filter_map(|row| Some((row, row.summary()?.median)));
    medians.max_by(|(_, this), (_, that)| better(case.unit, *this, *that).total_cmp(&1.0))
}

/// The row of ours that the others are held against: the first that has a figure.
pub fn ours(rows: &[Measured]) -> Option<(&Measured, f64)> {
    let mut ours = rows.iter().filter(|row| row.row.kind == Kind::Ours);
    ours.find_map(|row| Some((row, row.summary()?.median)))
}

/// A row in the log of a run.
pub fn brief(case: &Case, measured: &Measured) -> String {
    let figure = measured.summary().map(|summary| {
        let p99 = summary.p99.map(|p99| format!(", p99 {}", show(p99, case.unit)));
        show(summary.median, case.unit) + &p99.unwrap_or_default()
    });
    let trouble = match &measured.trouble {
        Some(Trouble::NotHere(why)) => Some(format!("left out: {why}")),
        Some(Trouble::Failed(why)) => Some(format!("FAILED: {why}")),
        None => None,
    };
    let left = measured.left.said();
    [figure, trouble, left].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Ours => "**ours**",
        Kind::Process => "process",
        Kind::Thread => "thread",
        Kind::Raw => "raw",
    }
}

fn waits(waits: Waits) -> &'static str {
    match waits {
        Waits::Polls => "polls",
        Waits::Sleeps => "sleeps",
        Waits::Both => "polls, then sleeps",
        Waits::No => "-",
    }
}

/// What ours is to a row, in words.
fn verb(factor: f64) -> String {
    if factor >= 1.0 {
        format!("{} better", times(factor))
    } else {
        format!("{} **worse**", times(1.0 / factor))
    }
}

/// Where ours is behind, and where there is none of ours.
pub fn verdict(results: &[(Case, Vec<Measured>)]) -> String {
    let (mut behind, mut missing, mut ahead) = (String::new(), Vec::new(), Vec::new());
    for (case, rows) in results {
        let Some((first, median)) = ours(rows) else {
            missing.push(case.name);
            continue;
        };
        let mut faster = Vec::new();
        for row in rows.iter().filter(|row| matches!(row.row.kind, Kind::Process | Kind::Thread)) {
            let Some(summary) = row.summary() else { continue };
            let factor = better(case.unit, median, summary.median);
            if factor < 1.0 {
                let thread = if row.row.kind == Kind::Thread { " (thread)" } else { "" };
                faster.push(format!("{}{thread} by {}", row.row.name, times(1.0 / factor)));
            }
        }
        if faster.is_empty() {
            ahead.push(case.name);
        } else {
            let list = faster.join(", ");
            writeln!(behind, "- {}: {} is behind {list}", case.name, first.row.name)
                .expect("writes");
        }
    }
    let mut text = String::new();
    if behind.is_empty() && ahead.is_empty() {
        text += "There is no row of ours to compare.\n";
    } else if behind.is_empty() {
        text += "Ours is behind no peer and no thread in the cases that have a row of ours.\n";
    } else {
        text += "Where ours loses, to peers between processes and to threads:\n\n";
        text += &behind;
    }
    for (title, names) in [("Ahead of all of them", ahead), ("No row of ours", missing)] {
        if !names.is_empty() {
            write!(text, "\n{title}: {}.\n", names.join(", ")).expect("writes");
        }
    }
    text
}

fn table(text: &mut String, case: &Case, rows: &[Measured]) -> std::fmt::Result {
    let unit = case.unit;
    writeln!(text, "\n### {}\n\n{}.", case.name, upper(case.what))?;
    let more = if unit.more_is_better() { "More" } else { "Less" };
    writeln!(text, "{more} is better.\n")?;
    let (ours, limit) = (ours(rows), best(case, rows, Kind::Raw));
    let has_p99 = rows.iter().any(|row| row.figures.iter().any(|figure| figure.p99.is_some()));
    write!(text, "| | kind | waiting | median | spread |")?;
    write!(text, "{}", if has_p99 { " p99 |" } else { "" })?;
    writeln!(text, " ours is | of the limit |")?;
    write!(text, "| --- | --- | --- | ---: | ---: |")?;
    write!(text, "{}", if has_p99 { " ---: |" } else { "" })?;
    writeln!(text, " ---: | ---: |")?;
    let mut notes = Vec::new();
    for measured in rows {
        let row = measured.row;
        if let Some(trouble) = &measured.trouble {
            notes.push(match trouble {
                Trouble::NotHere(why) => format!("{}: left out, {why}.", row.name),
                Trouble::Failed(why) => format!("**{}: failed**: {why}.", row.name),
            });
        }
        if let Some(left) = measured.left.said() {
            notes.push(format!("{} {left}.", row.name));
        }
        let Some(summary) = measured.summary() else { continue };
        write!(text, "| {} | {} | {} |", row.name, kind(row.kind), waits(row.waits))?;
        write!(text, " {} |", show(summary.median, unit))?;
        write!(text, " {} .. {} |", show(summary.least, unit), show(summary.greatest, unit))?;
        if has_p99 {
            let p99 = summary.p99.map(|p99| show(p99, unit));
            write!(text, " {} |", p99.unwrap_or_default())?;
        }
        let to_ours = ours.filter(|_| row.kind != Kind::Ours);
        let to_ours = to_ours.map(|(_, ours)| verb(better(unit, ours, summary.median)));
        let to_limit = limit.map(|(_, limit)| times(better(unit, summary.median, limit)));
        writeln!(text, " {} | {} |", to_ours.unwrap_or_default(), to_limit.unwrap_or_default())?;
    }
    if !notes.is_empty() {
        writeln!(text)?;
    }
    for note in notes {
        writeln!(text, "- {note}")?;
    }
    Ok(())
}

fn upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>()).unwrap_or_default()
        + letters.as_str()
}

/// The whole report.
pub fn text(
    results: &[(Case, Vec<Measured>)],
    machine: &Machine,
    effort: &Effort,
    quick: bool,
) -> String {
    let mut text = String::from("# Benchmarks\n\n");
    text += "Written by `compare/run`; `compare/README.md` says how each figure is defined. Compare figures of one\n";
    text += "run only, by ratio: they drift from run to run, and from machine to machine.\n\n";
    if quick {
        text += "**A quick run: for a look only.**\n\n";
    }
    let (rounds, millis) = (effort.rounds, effort.time.as_millis());
    text += &format!(
        "Each row ran {rounds} times, in turn with the others of its case, each time in new processes and for {millis} ms\n\
         after a warm-up; figures are medians, the spread is from the worst to the best of these. Of a `process` row\n\
         all sides are processes; `thread` rows are for reference; `raw` ones are the mechanism alone, and the best of\n\
         them is the limit. Who `polls` has a core of its own to burn; who `sleeps` pays for being woken.\n\n"
    );
    text += &machine.lines.join("\n");
    text += "\n\n![All cases on one scale](compare/chart.svg)\n\n## Where ours stands\n\n";
    text += &verdict(results);
    text += "\n## Cases\n";
    for (case, rows) in results {
        table(&mut text, case, rows).expect("writes to a string");
    }
    text
}
