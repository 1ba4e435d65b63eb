//! Which crate may depend on which: the arrows of docs/ARCHITECTURE.md and of the decisions that changed them.

use crate::Finding;
use crate::tree::{Crate, Tree};

/// A crate's folder, the crates it may depend on, and those only its tests may.
struct Arrows {
    folder: &'static str,
    to: &'static [&'static str],
    tests: &'static [&'static str],
}

const ARROWS: &[Arrows] = &[
    Arrows { folder: "protocol", to: &[], tests: &[] },
    Arrows { folder: "persist", to: &[], tests: &[] },
    Arrows { folder: "engine/desk", to: &[], tests: &[] },
    Arrows { folder: "engine/ring", to: &[], tests: &[] },
    Arrows { folder: "engine/shard", to: &["protocol", "desk", "persist"], tests: &[] },
    // docs/decisions/0001: the loop around a shard lives beside the operation table.
    Arrows { folder: "engine/uring", to: &["shard", "ring", "persist"], tests: &["desk", "protocol"] },
    Arrows {
        folder: "engine/portable",
        to: &["uring", "shard", "ring", "persist"],
        tests: &["desk", "protocol"],
    },
    Arrows {
        folder: "engine/server",
        to: &["protocol", "desk", "shard", "ring", "uring", "portable", "persist"],
        tests: &[],
    },
    Arrows { folder: "bench", to: &["protocol", "uring"], tests: &[] },
    Arrows { folder: "tools/ringdesk", to: &["protocol", "desk", "persist"], tests: &[] },
    Arrows {
        folder: "tools/sim",
        to: &["protocol", "desk", "shard", "ring", "uring", "persist"],
        tests: &[],
    },
    Arrows { folder: "tools/gateway", to: &["protocol"], tests: &[] },
    Arrows { folder: "tools/tidy", to: &[], tests: &[] },
    // A workspace of its own, see its manifest.
    Arrows { folder: "fuzz", to: &["protocol", "desk", "shard", "persist"], tests: &[] },
];

/// Crates without clock, randomness, threads and I/O.
pub const PURE: &[&str] = &["protocol", "engine/desk", "engine/shard", "persist"];

/// External crates that would bring them.
const IMPURE: &[&str] = &[
    "rand",
    "rand_chacha",
    "getrandom",
    "fastrand",
    "uuid",
    "chrono",
    "time",
    "tokio",
    "mio",
    "monoio",
    "glommio",
    "async-std",
    "smol",
    "rayon",
    "crossbeam-channel",
    "parking_lot",
    "libc",
    "nix",
    "rustix",
    "io-uring",
    "socket2",
    "memmap2",
    "reqwest",
    "ureq",
];

/// Crates whose lints differ from the workspace's: the two with unsafe code.
const OWN_LINTS: &[&str] = &["engine/ring", "engine/uring"];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
const NPM: &str = "https://registry.npmjs.org/";

/// A dependency as a manifest names it.
struct Named<'a> {
    line: usize,
    name: &'a str,
    test: bool,
}

/// The dependencies of a manifest, from all its `[...dependencies]` tables.
fn named(manifest: &str) -> Vec<Named<'_>> {
    let mut found = Vec::new();
    let mut test = None;
    for (at, line) in manifest.lines().enumerate() {
        let text = line.trim();
        if let Some(table) = text.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            test = table.ends_with("dependencies").then(|| table.ends_with("dev-dependencies"));
            // `[dependencies.name]`
            if let Some((before, name)) = table.rsplit_once("dependencies.") {
                found.push(Named { line: at + 1, name, test: before.ends_with("dev-") });
            }
            continue;
        }
        let name = text.split(['.', '=', ' ']).next().unwrap_or("");
        if let Some(test) = test
            && !name.is_empty()
            && !name.starts_with('#')
        {
            found.push(Named { line: at + 1, name, test });
        }
    }
    found
}

fn manifest_path(krate: &Crate<'_>) -> String {
    format!("{}/Cargo.toml", krate.folder)
}

/// No dependency between crates of the workspace but the drawn ones.
pub fn dependencies(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for krate in tree.crates() {
        let path = manifest_path(&krate);
        let Some(arrows) = ARROWS.iter().find(|arrows| arrows.folder == krate.folder) else {
            findings.push(Finding::new(
                &path,
                0,
                "this crate has no arrows yet: add it to tools/tidy/src/arrows.rs",
            ));
            continue;
        };
        for Named { line, name, test } in named(krate.manifest) {
            let Some(to) = name.strip_prefix("ringdesk-") else { continue };
            if !(arrows.to.contains(&to) || test && arrows.tests.contains(&to)) {
                let sentence = format!("{} -> {to} is not an arrow of docs/ARCHITECTURE.md", krate.folder);
                findings.push(Finding::new(&path, line, sentence));
            }
        }
    }
    findings
}

/// Sans-IO crates depend on nothing that reads a clock, draws a number or calls the system.
pub fn pure_dependencies(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for krate in tree.crates().into_iter().filter(|krate| PURE.contains(&krate.folder)) {
        for Named { line, name, .. } in named(krate.manifest).into_iter().filter(|named| !named.test) {
            if IMPURE.contains(&name) {
                let sentence =
                    format!("{name} has no place in a sans-IO crate: take what it gives as an argument");
                findings.push(Finding::new(&manifest_path(&krate), line, sentence));
            }
        }
    }
    findings
}

/// Every crate inherits the lints that forbid unsafe code and warn of missing docs.
pub fn lints(tree: &Tree) -> Vec<Finding> {
    let takes = |manifest: &str| manifest.contains("[lints]\nworkspace = true");
    tree.crates()
        .iter()
        .filter(|krate| !OWN_LINTS.contains(&krate.folder) && !takes(krate.manifest))
        .map(|krate| Finding::new(&manifest_path(krate), 0, "lacks `[lints]` with `workspace = true`"))
        .collect()
}

/// Planted bugs reach tests only: no crate that ships asks for them.
pub fn planted(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for krate in tree.crates() {
        for Named { line, .. } in named(krate.manifest).into_iter().filter(|named| !named.test) {
            if krate.manifest.lines().nth(line - 1).is_some_and(|text| text.contains("\"planted\"")) {
                let sentence = "asks for planted bugs outside of its tests";
                findings.push(Finding::new(&manifest_path(&krate), line, sentence));
            }
        }
    }
    findings
}

/// Lock files name the public registries only.
pub fn lock_files(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files() {
        let (key, allowed) = match path.rsplit('/').next() {
            Some("Cargo.lock") => ("source = \"", CRATES_IO),
            Some("package-lock.json") => ("\"resolved\": \"", NPM),
            _ => continue,
        };
        for (at, line) in text.lines().enumerate() {
            let Some(source) = line.trim().strip_prefix(key) else { continue };
            if !source.starts_with(allowed) {
                findings.push(Finding::new(path, at + 1, format!("comes from elsewhere than {allowed}")));
            }
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
    fn a_forbidden_arrow_is_found_in_every_notation() {
        for text in [
            "[dependencies]\nringdesk-desk.workspace = true\n",
            "[dependencies]\nringdesk-desk = { path = \"../engine/desk\" }\n",
            "[dependencies.ringdesk-desk]\nworkspace = true\n",
            "[target.'cfg(unix)'.dependencies]\nringdesk-desk.workspace = true\n",
            "[dev-dependencies]\nringdesk-desk.workspace = true\n",
        ] {
            assert_eq!(dependencies(&tree("persist/Cargo.toml", text)).len(), 1, "{text}");
        }
        let good = "[dependencies]\nringdesk-desk.workspace = true\nserde.workspace = true\n[features]\nringdesk-x = []\n";
        assert!(dependencies(&tree("engine/shard/Cargo.toml", good)).is_empty());
        assert_eq!(
            dependencies(&tree("engine/uring/Cargo.toml", good)).len(),
            1,
            "desk is for its tests only"
        );
        assert_eq!(dependencies(&tree("engine/new/Cargo.toml", "")).len(), 1, "an undrawn crate");
    }

    #[test]
    fn a_clock_in_a_pure_crate_is_found() {
        let text = "[dependencies]\nrand.workspace = true\n[dev-dependencies]\nlibc.workspace = true\n";
        assert_eq!(pure_dependencies(&tree("engine/desk/Cargo.toml", text)).len(), 1);
        assert!(pure_dependencies(&tree("bench/Cargo.toml", text)).is_empty());
    }

    #[test]
    fn planted_bugs_are_for_tests() {
        let line = "ringdesk-shard = { workspace = true, features = [\"planted\"] }\n";
        let ask = |table: &str| planted(&tree("tools/sim/Cargo.toml", &format!("[{table}]\n{line}"))).len();
        assert_eq!((ask("dependencies"), ask("dev-dependencies")), (1, 0));
    }

    #[test]
    fn lints_are_inherited() {
        assert_eq!(lints(&tree("bench/Cargo.toml", "[package]\n")).len(), 1);
        assert!(lints(&tree("bench/Cargo.toml", "[lints]\nworkspace = true\n")).is_empty());
    }

    #[test]
    fn a_foreign_registry_is_found() {
        let text = format!("source = \"{CRATES_IO}\"\nsource = \"registry+https://example.org/index\"\n");
        assert_eq!(lock_files(&tree("Cargo.lock", &text)).len(), 1);
        let text = "  \"resolved\": \"https://example.org/lit.tgz\",\n";
        assert_eq!(lock_files(&tree("tools/web/package-lock.json", text)).len(), 1);
    }
}
