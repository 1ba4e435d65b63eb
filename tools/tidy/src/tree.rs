//! The tree: every text file that belongs to the project, by path, and the crates among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use crate::mask::{Masked, is_test_attribute, mask};

/// Folders that hold no sources: built, downloaded, or data.
const SKIPPED: &[&str] = &["target", "node_modules", ".git", "dist", "data", ".unit", "shots"];

/// What is read; of other files (pictures, scripts, units) only the path is known.
const TEXT: &[&str] = &["rs", "toml", "md", "ts", "mjs", "js", "svelte", "css", "html", "json", "lock"];

/// The project's text files, in order of their paths. Paths have `/` and start below the root.
#[derive(Default)]
pub struct Tree {
    files: BTreeMap<String, String>,
    masked: BTreeMap<String, Masked>,
    /// Every file, read or not.
    paths: BTreeSet<String>,
    /// Modules that exist under `#[cfg(test)]` only, without `.rs`.
    test_modules: BTreeSet<String>,
}

/// A crate of the workspace.
#[derive(Debug)]
pub struct Crate<'a> {
    /// Folder below the root: `engine/desk`.
    pub folder: &'a str,
    /// Its Cargo.toml.
    pub manifest: &'a str,
}

impl Tree {
    /// Reads the tree below `root`.
    ///
    /// # Errors
    /// A folder or file that cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.walk(root, "")?;
        Ok(tree)
    }

    fn walk(&mut self, folder: &Path, below: &str) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = if below.is_empty() { name.to_string() } else { format!("{below}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() && !SKIPPED.contains(&name) {
                self.walk(&entry.path(), &path)?;
            } else if kind.is_file() && is_text(name) {
                self.insert(&path, fs::read_to_string(entry.path())?);
            } else {
                self.paths.insert(path);
            }
        }
        Ok(())
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, path: &str, text: String) {
        if path.ends_with(".rs") {
            let masked = mask(&text);
            self.test_modules.extend(test_modules(path, &masked));
            self.masked.insert(path.into(), masked);
        }
        self.paths.insert(path.into());
        self.files.insert(path.into(), text);
    }

    /// A file's text.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Whether a file or a folder has this path.
    pub fn has(&self, path: &str) -> bool {
        let below = format!("{path}/");
        let first = self.paths.range(below.clone()..).next();
        self.paths.contains(path) || first.is_some_and(|first| first.starts_with(&below))
    }

    /// Whether a Rust file is test code as a whole.
    pub fn is_test(&self, path: &str) -> bool {
        let module = path.trim_end_matches(".rs");
        let below = |test: &String| module == test || module.starts_with(&format!("{test}/"));
        path.contains("/tests/") || path.contains("/benches/") || self.test_modules.iter().any(below)
    }

    /// Every file with its text.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Every Rust file, masked.
    pub fn rust(&self) -> impl Iterator<Item = (&str, &Masked)> {
        self.masked.iter().map(|(path, masked)| (path.as_str(), masked))
    }

    /// Every crate but the workspace itself.
    pub fn crates(&self) -> Vec<Crate<'_>> {
        let of = |(path, manifest)| {
            let folder = str::strip_suffix(path, "/Cargo.toml")?;
            Some(Crate { folder, manifest })
        };
        self.files().filter_map(of).collect()
    }
}

fn is_text(name: &str) -> bool {
    name == "Makefile" || name.rsplit_once('.').is_some_and(|(_, extension)| TEXT.contains(&extension))
}

/// The modules a file declares under `#[cfg(test)]`, by path without `.rs`.
fn test_modules(path: &str, masked: &Masked) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let root = ["lib.rs", "main.rs", "mod.rs"].contains(&name);
    let folder = if root { folder } else { path.trim_end_matches(".rs") };
    let declared = |pair: &[String]| {
        let module = pair[1].trim().strip_prefix("mod ")?.strip_suffix(';')?;
        is_test_attribute(&pair[0]).then(|| format!("{folder}/{module}"))
    };
    masked.code.windows(2).filter_map(declared).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_modules_are_known_wherever_they_lie() {
        let mut tree = Tree::default();
        tree.insert("a/src/lib.rs", "#[cfg(test)]\nmod vectors;\nmod b;\n".into());
        tree.insert("a/src/b.rs", "#[cfg(test)]\nmod tests;\n".into());
        for test in ["a/src/vectors.rs", "a/src/vectors/mod.rs", "a/src/b/tests.rs", "a/tests/c.rs"] {
            assert!(tree.is_test(test), "{test}");
        }
        for shipped in ["a/src/b.rs", "a/src/lib.rs", "a/src/vectors_of.rs"] {
            assert!(!tree.is_test(shipped), "{shipped}");
        }
    }

    #[test]
    fn files_and_folders_are_there() {
        let mut tree = Tree::default();
        tree.insert("docs/WIRE.md", String::new());
        assert!(tree.has("docs") && tree.has("docs/WIRE.md"));
        assert!(!tree.has("doc") && !tree.has("docs/WIRE"));
    }
}
