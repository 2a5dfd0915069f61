//! Counts the words in all text files below a directory, by a pool, with a progress bar.
//!
//! `cargo run --release --example wordcount -- [DIRECTORY]`; without one, in the sources of cargo's registry. Then
//! counts them once more in this process alone, and says whether both counts agree.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressIterator;
use multiprocess::{Pool, TaskError, cpu_count};

type Counts = HashMap<String, u64>;

/// So many files are one task: what their words have in common is counted there, and not sent.
const TOGETHER: usize = 64;

/// The words of some files: letters, in lower case.
fn count(files: Vec<PathBuf>) -> Counts {
    let mut counts = Counts::new();
    for file in files {
        // What cannot be read has no words; what is no text is read as far as it is one.
        let bytes = fs::read(file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    counts
}

fn add(total: &mut Counts, counts: Counts) {
    for (word, count) in counts {
        *total.entry(word).or_default() += count;
    }
}

fn text_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_text = |path: &Path| {
            let extension = path.extension().unwrap_or_default().to_str().unwrap_or_default();
            ["rs", "md", "txt", "toml", "c", "h", "py", "json"].contains(&extension)
        };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => text_files(&path, files),
            Ok(kind) if kind.is_file() && is_text(&path) => files.push(path),
            _ => {}
        }
    }
}

fn default_directory() -> PathBuf {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
    cargo.or_else(home).unwrap_or_default().join("registry/src")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    multiprocess::init();
    let directory = std::env::args_os().nth(1).map_or_else(default_directory, PathBuf::from);
    let mut files = Vec::new();
    text_files(&directory, &mut files);
    println!("{} files below {}", files.len(), directory.display());

    let start = Instant::now();
    let pool = Pool::builder().build()?;
    let mut total = Counts::new();
    let tasks: Vec<Vec<PathBuf>> = files.chunks(TOGETHER).map(<[PathBuf]>::to_vec).collect();
    // The bar knows how many there are, as the results are as many as the tasks.
    for counts in pool.imap_unordered(count, tasks).progress() {
        match counts {
            Ok(counts) => add(&mut total, counts),
            Err(error @ TaskError::WorkerDied { .. }) => eprintln!("some files are lost: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    pool.close();
    pool.join()?;
    let parallel = start.elapsed();

    let start = Instant::now();
    let check = count(files);
    let alone = start.elapsed();

    let mut table: Vec<_> = total.iter().collect();
    table.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    println!("{:>10}  word\n{:->10}  {:->12}", "times", "", "");
    for (word, count) in table.iter().take(10) {
        println!("{count:>10}  {word}");
    }
    let words: u64 = total.values().sum();
    println!("{words} words, {} different ones", total.len());
    println!("{} processes: {parallel:.2?}; one: {alone:.2?}", cpu_count());
    if total != check {
        return Err("the two counts differ".into());
    }
    println!("both counts agree");
    Ok(())
}
