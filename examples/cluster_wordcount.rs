//! Counts the words in all text files below a directory, on all machines that serve.
//!
//! On every machine that is to help, with the same program and the same files:
//!
//! ```text
//! cluster_wordcount --serve redis://head:6379/
//! ```
//!
//! Then, on one: `cluster_wordcount redis://head:6379/ DIRECTORY`. Without a URL the pool is one of this machine, and that
//! is the only difference. Prints the most frequent words, and whether one process alone counts the same.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use multiprocess::cluster::{Engine, serve};
use multiprocess::{Pool, TaskError};

type Counts = HashMap<String, u64>;

/// So many files are one task.
const TOGETHER: usize = 64;
const NAME: &str = "wordcount";

/// The words of some files, and the host that counted them.
fn count(files: Vec<PathBuf>) -> (Counts, u32) {
    let mut counts = Counts::new();
    for file in files {
        let bytes = fs::read(file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    (counts, std::process::id())
}

fn text_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let extension = path.extension().unwrap_or_default().to_str().unwrap_or_default();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => text_files(&path, files),
            Ok(kind) if kind.is_file() && ["rs", "md", "txt", "toml"].contains(&extension) => {
                files.push(path);
            }
            _ => {}
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    multiprocess::init();
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--serve") {
        let url = arguments.get(1).ok_or("which server? redis://head:6379/")?;
        return Ok(serve(url, NAME)?.run()?);
    }
    let url = arguments.first().filter(|argument| argument.contains("://")).cloned();
    if url.is_some() {
        arguments.remove(0);
    }
    let mut files = Vec::new();
    text_files(Path::new(arguments.first().map_or(".", String::as_str)), &mut files);
    files.sort_unstable();
    println!("{} files", files.len());

    // The one place in which a program for one machine and one for many differ.
    let pool = match url {
        Some(url) => Pool::builder().engine(Engine::connect(&url, NAME)?).build()?,
        None => Pool::builder().build()?,
    };
    let start = Instant::now();
    let tasks: Vec<Vec<PathBuf>> = files.chunks(TOGETHER).map(<[PathBuf]>::to_vec).collect();
    let (mut total, mut workers) = (Counts::new(), HashMap::<u32, u32>::new());
    for counted in pool.imap_unordered(count, tasks) {
        match counted {
            Ok((counts, worker)) => {
                *workers.entry(worker).or_default() += 1;
                counts.into_iter().for_each(|(word, n)| *total.entry(word).or_default() += n);
            }
            Err(error @ TaskError::WorkerDied { .. }) => eprintln!("some files are lost: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    let time = start.elapsed();
    let mut table: Vec<_> = total.iter().collect();
    table.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    for (word, count) in table.iter().take(10) {
        println!("{count:>10}  {word}");
    }
    println!("{time:.2?}; tasks of each worker: {:?}", workers.values().collect::<Vec<_>>());
    let (check, _) = count(files);
    if total != check {
        return Err("one process alone counts otherwise".into());
    }
    println!("one process alone counts the same");
    Ok(())
}
