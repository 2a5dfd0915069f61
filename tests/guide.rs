//! The guide is complete and true: it has every public name of Python's module, and the crates as they are.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::Outcome;

crate::cases! {
    ONCE:
        every_name_of_python_is_in_the_guide
        the_list_has_every_name_of_the_python_that_is_here
        the_picture_of_the_crates_is_what_their_manifests_say;
}

/// Names of CPython 3.13, and what 3.14 added.
const NAMES: &str = include_str!("../docs/python-names.txt");
const PAGE: &str = include_str!("../docs/from-python.md");
/// The newest minor version of Python 3 that the list is for.
const NEWEST: u32 = 14;

fn listed() -> BTreeSet<&'static str> {
    NAMES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names of the page: the headings, and what stands first in each row, after the name of its heading.
fn on_the_page(listed: &BTreeSet<&'static str>) -> Result<BTreeSet<String>, String> {
    let (mut headings, mut names) = (Vec::new(), BTreeSet::new());
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            // "Of `pool`" has whole names in its rows.
            headings = if heading.starts_with('`') { code(heading).collect() } else { vec![] };
            names.extend(headings.iter().map(ToString::to_string));
        } else if let Some(row) = line.strip_prefix("| ") {
            let first = row.split(" | ").next().unwrap_or_default();
            for name in code(first) {
                let whole = headings.iter().map(|heading| format!("{heading}.{name}"));
                let meant: Vec<_> = if headings.is_empty() {
                    vec![name.to_string()]
                } else {
                    whole.filter(|whole| listed.contains(whole.as_str())).collect()
                };
                if !meant.iter().any(|name| listed.contains(name.as_str())) {
                    return Err(format!("{name} below {headings:?} is no name of Python's"));
                }
                names.extend(meant);
            }
        }
    }
    Ok(names)
}

fn every_name_of_python_is_in_the_guide() -> Outcome {
    let listed = listed();
    assert!(listed.len() > 500, "{} names are too few", listed.len());
    let page = on_the_page(&listed)?;
    let missing: Vec<_> = listed.iter().filter(|name| !page.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/from-python.md has nothing of {missing:?}");
    Ok(())
}

/// Where there is no Python, or a newer one than the list, this says so and checks nothing.
fn the_list_has_every_name_of_the_python_that_is_here() -> Outcome {
    let python = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("python3").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(minor) = python(&["-c", "import sys; print(sys.version_info.minor)"]) else {
        println!("no python3: the list of its names is taken as it is");
        return Ok(());
    };
    let minor: u32 = minor.trim().parse()?;
    if minor > NEWEST {
        println!("python3 is 3.{minor}, newer than the list of its names");
        return Ok(());
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/python-names.py");
    let names = python(&[script]).ok_or("docs/python-names.py does not run")?;
    let listed = listed();
    let missing: Vec<_> = names.lines().filter(|name| !listed.contains(name)).collect();
    assert!(missing.is_empty(), "docs/python-names.txt lacks {missing:?} of Python 3.{minor}");
    Ok(())
}

/// The cells of a row of boxes.
fn cells(line: &str) -> Vec<&str> {
    line.split('│').map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// Of a packaged crate, which has not the others beside it, this checks nothing.
fn the_picture_of_the_crates_is_what_their_manifests_say() -> Outcome {
    let mut drawn = BTreeSet::new();
    let lines: Vec<_> = include_str!("../docs/architecture.md").lines().collect();
    for rows in lines.windows(2).filter(|rows| rows[1].contains("│ uses ")) {
        for (name, uses) in cells(rows[0]).into_iter().zip(cells(rows[1])) {
            let uses = uses.strip_prefix("uses ").ok_or("a box without what it uses")?;
            drawn.insert(format!("{name} uses {uses}"));
        }
    }
    let mut real = BTreeSet::new();
    for entry in std::fs::read_dir(env!("CARGO_MANIFEST_DIR"))? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let manifest = format!("{}/{name}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        let Ok(manifest) = std::fs::read_to_string(manifest) else { continue };
        // All stand on mp-core, which stands on none.
        if !name.starts_with("mp-") || name == "mp-core" {
            continue;
        }
        let mut is_dependency = false;
        let uses: BTreeSet<_> = manifest
            .lines()
            .filter(|line| {
                if line.starts_with('[') {
                    is_dependency = line.ends_with("dependencies]") && !line.contains("dev-");
                }
                is_dependency
            })
            .filter_map(|line| line.strip_prefix("mp-")?.split(['.', ' ']).next())
            .filter(|name| *name != "core")
            .collect();
        let uses = uses.into_iter().collect::<Vec<_>>().join(", ");
        let uses = if uses.is_empty() { "none" } else { &uses };
        real.insert(format!("{name} uses {uses}"));
    }
    assert!(
        real.is_empty() || real == drawn,
        "docs/architecture.md: {drawn:?} is in truth {real:?}"
    );
    Ok(())
}
