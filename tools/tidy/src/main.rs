//! Checks of the tree that the compiler does not make.
//!
//! Order of reading: [`tree`] (what is looked at), [`mask`] (code without strings and comments), then the checks, from
//! the outside in: [`arrows`] (who depends on whom), [`sources`] (what stands in a file), [`documents`].
//!
//! A check is a pure function from the tree to its findings. One line per finding, then `N passed, N failed`, where N
//! counts checks. Exit code 1 if one failed.

mod arrows;
mod documents;
mod mask;
mod sources;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use tree::Tree;

/// What is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Path below the root.
    pub path: String,
    /// Line, from 1; 0 = the file as a whole.
    pub line: usize,
    /// What is wrong and what to do.
    pub sentence: String,
}

impl Finding {
    /// A finding in a line, counted from 1, or in the file as a whole (0).
    pub fn new(path: &str, line: usize, sentence: impl Into<String>) -> Self {
        Self { path: path.into(), line, sentence: sentence.into() }
    }
}

type Check = fn(&Tree) -> Vec<Finding>;

/// Every check, by the rule it keeps.
const CHECKS: &[(&str, Check)] = &[
    ("crates depend only along the arrows of the architecture", arrows::dependencies),
    ("sans-IO crates link nothing that does I/O, time or randomness", arrows::pure_dependencies),
    ("planted bugs are for tests only", arrows::planted),
    ("every crate takes the workspace's lints", arrows::lints),
    ("external crates come from crates.io, npm packages from npm", arrows::lock_files),
    ("sans-IO crates name no clock, thread, socket or file", sources::pure),
    ("unsafe code lives in engine/ring and engine/uring", sources::unsafe_code),
    ("nothing is left unfinished", sources::unfinished),
    ("no test is ignored", sources::ignored),
    ("a silenced lint has its reason beside it", sources::silenced),
    ("files have at most 600 lines", sources::file_lengths),
    ("functions have at most 75 lines", sources::function_lengths),
    ("names say what they name", sources::names),
    ("every module begins with what it is", sources::headers),
    ("the README's two commands exist", documents::commands),
    ("links between documents lead somewhere", documents::links),
    ("every configuration key is documented", documents::configuration_keys),
    ("decisions are numbered without gaps", documents::decisions),
];

fn main() -> ExitCode {
    // This crate lies two folders below the root, wherever the tree was cloned to.
    let root = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.."), PathBuf::from);
    let tree = match Tree::read(&root) {
        Ok(tree) => tree,
        Err(error) => {
            eprintln!("{}: {error}", root.display());
            return ExitCode::from(2);
        }
    };
    let mut failed = 0;
    for (rule, check) in CHECKS {
        let findings = check(&tree);
        if findings.is_empty() {
            continue;
        }
        failed += 1;
        println!("FAIL {rule}");
        for Finding { path, line, sentence } in findings {
            match line {
                0 => println!("  {path}: {sentence}"),
                line => println!("  {path}:{line}: {sentence}"),
            }
        }
    }
    println!("tidy: {} passed, {failed} failed", CHECKS.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty tree would pass most checks: this one is not empty.
    #[test]
    fn the_tree_is_read() {
        let tree = Tree::read(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")).expect("readable");
        for path in ["Cargo.toml", "Makefile", "engine/desk/src/lib.rs", "tools/web/src/client.ts"] {
            assert!(tree.get(path).is_some(), "{path}");
        }
        assert!(!tree.files().any(|(path, _)| path.contains("node_modules") || path.starts_with("target/")));
        assert!(tree.crates().len() >= 13);
    }
}
