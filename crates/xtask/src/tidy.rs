//! What the compiler does not look at: sizes, headings, words, links.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

/// Longest file of code, in lines.
const LINES_MAX: usize = 800;
/// Longest file of tests, in lines.
const TEST_LINES_MAX: usize = 1_200;
/// Lines of code of the guard, which nothing watches: little enough to be read whole.
const GUARD_LINES_MAX: usize = 500;
/// Longest line of code, in characters.
const COLUMNS_MAX: usize = 100;

fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    let files = String::from_utf8(output.stdout)?;
    Ok(files.lines().map(PathBuf::from).filter(|path| root.join(path).is_file()).collect())
}

fn is_test(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/tests/") || text.contains("tests.rs") || text.starts_with("cluster-tests/")
}

fn check_code(path: &Path, text: &str, wrong: &mut Vec<String>) {
    let shown = path.display();
    let limit = if is_test(path) { TEST_LINES_MAX } else { LINES_MAX };
    let lines = text.lines().count();
    if lines > limit {
        wrong.push(format!("{shown}: {lines} lines; at most {limit}"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        // A text that a person reads whole may be longer than a line of code.
        if line.chars().count() > COLUMNS_MAX && !line.contains('"') && !line.contains("///") {
            wrong.push(format!("{shown}:{number}: longer than {COLUMNS_MAX} characters"));
        }
        for word in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
            if line.contains(&format!("{word}:")) || line.contains(&format!("{word} ")) {
                wrong.push(format!("{shown}:{number}: {word} needs a place in docs/"));
            }
        }
    }
    let root_of_crate = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    if root_of_crate && !text.starts_with("//!") {
        wrong.push(format!("{shown}: a crate says first what it is"));
    }
}

fn check_prose(path: &Path, text: &str, wrong: &mut Vec<String>) {
    let mut fenced = false;
    let mut titles = 0;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        titles += usize::from(!fenced && line.starts_with("# "));
    }
    if titles != 1 {
        wrong.push(format!("{}: {titles} titles; a page has one", path.display()));
    }
}

/// Lines before the tests that are neither empty nor comments.
fn lines_of_code(text: &str) -> usize {
    let before_tests = text.lines().take_while(|line| *line != "#[cfg(test)]");
    let code = before_tests.map(str::trim).filter(|line| !line.is_empty());
    code.filter(|line| !line.starts_with("//")).count()
}

/// Checks every tracked file.
pub fn check(root: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    let files = tracked(root)?;
    let mut guard_lines = 0;
    let index = fs::read_to_string(root.join("docs/adr/README.md")).unwrap_or_default();
    for path in &files {
        if path.components().any(|part| part.as_os_str() == "gen") {
            continue;
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("rs") => check_code(path, &fs::read_to_string(root.join(path))?, &mut wrong),
            Some("md") => check_prose(path, &fs::read_to_string(root.join(path))?, &mut wrong),
            _ => {}
        }
        if path.starts_with("crates/guard/src") {
            guard_lines += lines_of_code(&fs::read_to_string(root.join(path))?);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let decision = path.starts_with("docs/adr") && name != "README.md";
        if decision && !index.contains(name.as_ref()) {
            wrong.push(format!("{}: docs/adr/README.md does not list it", path.display()));
        }
    }
    if guard_lines > GUARD_LINES_MAX {
        wrong.push(format!("the guard has {guard_lines} lines of code; at most {GUARD_LINES_MAX}"));
    }
    let changes = fs::read_to_string(root.join("CHANGELOG.md")).unwrap_or_default();
    if !changes.contains("## Unreleased") {
        wrong.push("CHANGELOG.md has no section Unreleased".into());
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}
