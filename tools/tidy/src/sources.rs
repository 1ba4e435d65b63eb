//! What stands in a source file, and how it is called.

use crate::Finding;
use crate::arrows::PURE;
use crate::mask::{Masked, has_word};
use crate::tree::Tree;

/// Lines of a source file.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function; the style says about 70.
const FUNCTION_LINES_MAX: usize = 75;
/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Folders with unsafe code.
const UNSAFE: &[&str] = &["engine/ring/", "engine/uring/"];

/// What a sans-IO crate must not name, because it comes as an argument or not at all.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "std::fs",
    "std::process",
    "std::env",
    "std::os",
    "thread_local!",
    "tokio::",
    "rand::",
    "getrandom",
    "RandomState",
    "HashSet",
    "DefaultHasher",
    "println!",
    "eprintln!",
];

/// Files of sans-IO crates that are no part of what ships, each with its reason.
const PLANTED: &[(&str, &str)] =
    &[("engine/shard/src/planted.rs", "planted bugs for the simulator's tests, behind a feature")];

/// Names that say nothing about what they name.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "helper", "helpers", "common", "misc", "manager", "service", "services", "process",
    "data",
];
/// Endings of types that say nothing.
const EMPTY_ENDINGS: &[&str] = &["Manager", "Helper", "Helpers", "Util", "Utils", "Service"];

/// Every line of code of a file that is not a test, with its number.
fn shipped<'a>(tree: &Tree, path: &str, masked: &'a Masked) -> impl Iterator<Item = (usize, &'a str)> {
    let whole = !tree.is_test(path);
    masked
        .code
        .iter()
        .zip(&masked.test)
        .enumerate()
        .filter(move |(_, (_, test))| whole && !**test)
        .map(|(at, (line, _))| (at + 1, line.as_str()))
}

/// Sans-IO crates name neither clock nor randomness, threads, files, sockets, nor a hash order that differs by run.
pub fn pure(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, masked) in tree.rust() {
        let inside = PURE.iter().any(|folder| path.starts_with(&format!("{folder}/src/")));
        if !inside || PLANTED.iter().any(|(planted, _)| *planted == path) {
            continue;
        }
        for (line, code) in shipped(tree, path, masked) {
            for word in IMPURE.iter().filter(|word| has_word(code, word)) {
                findings.push(Finding::new(path, line, format!("`{word}` has no place in a sans-IO crate")));
            }
            // A map with a fixed hasher, never iterated, is a look-up; the standard one differs by run.
            if has_word(code, "HashMap<") && !code.contains("BuildHasherDefault") {
                findings.push(Finding::new(
                    path,
                    line,
                    "a HashMap needs a fixed hasher here, or be a BTreeMap",
                ));
            }
        }
    }
    findings
}

/// Unsafe code only where it is meant to be.
pub fn unsafe_code(tree: &Tree) -> Vec<Finding> {
    each_code(tree, |path, code| {
        let free = UNSAFE.iter().any(|folder| path.starts_with(folder));
        (!free && has_word(code, "unsafe"))
            .then(|| "unsafe code belongs to engine/ring or engine/uring".into())
    })
}

/// No stub and no note to self.
pub fn unfinished(tree: &Tree) -> Vec<Finding> {
    let mut findings = each_code(tree, |_, code| {
        let stub = ["todo!", "unimplemented!"].into_iter().find(|stub| has_word(code, stub))?;
        Some(format!("`{stub}` is a stub"))
    });
    for (path, masked) in tree.rust() {
        for (at, comment) in masked.comments.iter().enumerate() {
            for note in ["FIXME", "TODO", "XXX"].into_iter().filter(|note| has_word(comment, note)) {
                findings.push(Finding::new(path, at + 1, format!("{note}: mend it, or say what is and why")));
            }
        }
    }
    findings
}

/// A test that does not run proves nothing.
pub fn ignored(tree: &Tree) -> Vec<Finding> {
    each_code(tree, |_, code| {
        code.trim_start().starts_with("#[ignore").then(|| "this test never runs".into())
    })
}

/// `allow` and `expect` say why: by `reason`, or by a comment on the same line or the one above.
pub fn silenced(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, masked) in tree.rust() {
        let commented = |at: usize| masked.comments.get(at).is_some_and(|comment| !comment.trim().is_empty());
        for (at, code) in masked.code.iter().enumerate() {
            let attribute = code.trim_start();
            let silences = ["#[allow(", "#![allow(", "#[expect(", "#![expect("];
            let said = masked.code[at..].iter().take(4).any(|line| has_word(line, "reason"))
                || commented(at)
                || (at > 0 && commented(at - 1));
            if silences.iter().any(|start| attribute.starts_with(start)) && !said {
                findings.push(Finding::new(path, at + 1, "silences a lint without saying why"));
            }
        }
    }
    findings
}

/// A long file has a noun in it that wants a file of its own.
pub fn file_lengths(tree: &Tree) -> Vec<Finding> {
    let code = |path: &str| [".rs", ".ts", ".mjs", ".svelte", ".css"].iter().any(|end| path.ends_with(end));
    tree.files()
        .filter(|(path, text)| {
            let excused = LONG_FILES.iter().any(|(long, _)| long == path);
            code(path) && !excused && text.lines().count() > FILE_LINES_MAX
        })
        .map(|(path, text)| {
            Finding::new(path, 0, format!("{} lines: split it along its nouns", text.lines().count()))
        })
        .collect()
}

/// A long function does two things. Formatted code: a function ends with `}` in the column it began in.
pub fn function_lengths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, masked) in tree.rust() {
        for (at, line) in masked.code.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if !is_function(line.trim_start()) {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            // A declaration without body ends with `;` before any brace closes in its column.
            let body = masked.code[at..].iter().position(|line| line.trim_end().ends_with(['{', '}', ';']));
            if body.is_none_or(|end| !masked.code[at + end].trim_end().ends_with('{')) {
                continue;
            }
            let length =
                masked.code[at..].iter().position(|line| line.trim_end() == close).map_or(0, |end| end + 1);
            if length > FUNCTION_LINES_MAX {
                findings.push(Finding::new(
                    path,
                    at + 1,
                    format!("a function of {length} lines: take it apart"),
                ));
            }
        }
    }
    findings
}

fn is_function(line: &str) -> bool {
    let mut words = line.split(' ');
    let qualifier =
        |word: &str| word.starts_with("pub") || ["const", "async", "unsafe", "extern"].contains(&word);
    words.find(|word| !qualifier(word)) == Some("fn")
}

/// Files, modules and types are called after what they are.
pub fn names(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, masked) in tree.rust() {
        // A test's `common` module is cargo's own convention, and a test may well be about a process.
        if !tree.is_test(path) {
            let stem = path.trim_end_matches(".rs").trim_end_matches("/mod");
            if let Some(name) = stem.split('/').next_back().filter(|name| EMPTY_NAMES.contains(name)) {
                findings.push(Finding::new(path, 0, format!("`{name}` names nothing")));
            }
        }
        for (at, code) in masked.code.iter().enumerate() {
            let declared = ["struct ", "enum ", "trait ", "type "].into_iter().find_map(|kind| {
                let code = code.trim_start();
                let code =
                    code.strip_prefix("pub ").or_else(|| code.strip_prefix("pub(crate) ")).unwrap_or(code);
                code.strip_prefix(kind)?.split(|c: char| !c.is_alphanumeric()).next()
            });
            if let Some(name) = declared.filter(|name| EMPTY_ENDINGS.iter().any(|end| name.ends_with(end))) {
                findings.push(Finding::new(
                    path,
                    at + 1,
                    format!("`{name}` ends in a word that says nothing"),
                ));
            }
        }
    }
    findings
}

/// The first line of a module says what it is.
pub fn headers(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|(_, masked)| !masked.comments.first().is_some_and(|line| line.starts_with("//!")))
        .map(|(path, _)| {
            Finding::new(path, 1, "begins without `//!`: say what it is, its order and who owns what")
        })
        .collect()
}

/// A finding for each line of code, tests included, about which `look` has a sentence.
fn each_code(tree: &Tree, look: impl Fn(&str, &str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, masked) in tree.rust() {
        for (at, code) in masked.code.iter().enumerate() {
            findings.extend(look(path, code).map(|sentence| Finding::new(path, at + 1, sentence)));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &str, text: &str) -> Tree {
        let mut tree = Tree::default();
        tree.insert(path, text.into());
        tree
    }

    #[test]
    fn a_clock_is_found_outside_tests_only() {
        let text = "//! std::thread\nfn a() { Instant::now(); }\n#[cfg(test)]\nmod tests {\n    use std::thread;\n}\n";
        let found = pure(&tree("engine/desk/src/a.rs", text));
        assert_eq!(found.iter().map(|found| found.line).collect::<Vec<_>>(), [2]);
        assert!(pure(&tree("engine/desk/tests/a.rs", text)).is_empty());
        assert!(pure(&tree("engine/server/src/a.rs", text)).is_empty());
        assert_eq!(pure(&tree("persist/src/a.rs", "type A = HashMap<u8, u8>;")).len(), 1);
    }

    #[test]
    fn unsafe_code_and_stubs_are_found() {
        let text = "fn a() { unsafe { b() } } // unsafe\nfn c() { todo!() }\n// FIXME\nconst D: &str = \"FIXME todo!()\";\n";
        assert_eq!(unsafe_code(&tree("persist/src/a.rs", text)).len(), 1);
        assert!(unsafe_code(&tree("engine/ring/src/a.rs", text)).is_empty());
        assert_eq!(unfinished(&tree("persist/src/a.rs", text)).len(), 2);
        assert_eq!(ignored(&tree("persist/tests/a.rs", "#[test]\n#[ignore]\nfn a() {}")).len(), 1);
    }

    #[test]
    fn a_silenced_lint_needs_a_reason() {
        for (text, found) in [
            ("#[allow(dead_code)]\nfn a() {}", 1),
            ("#[allow(dead_code, reason = \"kept\")]\nfn a() {}", 0),
            ("#[allow(dead_code)] // kept\nfn a() {}", 0),
            ("// kept\n#[allow(dead_code)]\nfn a() {}", 0),
        ] {
            assert_eq!(silenced(&tree("bench/src/a.rs", text)).len(), found, "{text}");
        }
    }

    #[test]
    fn lengths_are_counted() {
        let long = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(FUNCTION_LINES_MAX - 1));
        assert_eq!(function_lengths(&tree("bench/src/a.rs", &long)).len(), 1);
        let fits = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(FUNCTION_LINES_MAX - 2));
        assert!(function_lengths(&tree("bench/src/a.rs", &fits)).is_empty());
        let declared = format!(
            "trait A {{\n    fn a();\n{}    fn b() {{\n    }}\n}}\n",
            "    const C: u8;\n".repeat(80)
        );
        assert!(function_lengths(&tree("bench/src/a.rs", &declared)).is_empty());
        assert_eq!(file_lengths(&tree("bench/src/a.rs", &"\n".repeat(FILE_LINES_MAX + 1))).len(), 1);
    }

    #[test]
    fn empty_names_are_found() {
        assert_eq!(names(&tree("bench/src/utils.rs", "")).len(), 1);
        assert_eq!(names(&tree("bench/src/helper/mod.rs", "")).len(), 1);
        assert!(names(&tree("bench/tests/common/mod.rs", "")).is_empty());
        assert_eq!(names(&tree("bench/src/a.rs", "pub struct ConnectionManager {")).len(), 1);
        assert!(names(&tree("bench/src/a.rs", "use x::ConnectionManager;")).is_empty());
    }

    #[test]
    fn a_module_begins_with_what_it_is() {
        assert_eq!(headers(&tree("bench/src/a.rs", "fn a() {}")).len(), 1);
        assert!(headers(&tree("bench/src/a.rs", "//! What a is.\nfn a() {}")).is_empty());
    }
}
