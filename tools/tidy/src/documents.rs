//! Documents: what they refer to exists, and what they must mention they do.

use crate::Finding;
use crate::tree::Tree;

/// Where the configuration is read, and the two places that describe it.
const CONFIG: &str = "engine/server/src/config.rs";
const CONFIG_EXAMPLE: &str = "tools/packaging/ringdesk.toml";
const OPERATIONS: &str = "docs/OPERATIONS.md";

/// The commands a stranger types first. Both READMEs show them, the Makefile has them.
pub fn commands(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for target in ["run", "test"] {
        for readme in ["README.md", "README.zh.md"] {
            if !tree.get(readme).is_some_and(|text| text.contains(&format!("make {target}"))) {
                findings.push(Finding::new(readme, 0, format!("does not show `make {target}`")));
            }
        }
        let defined = |text: &str| text.lines().any(|line| line.starts_with(&format!("{target}:")));
        if !tree.get("Makefile").is_some_and(defined) {
            findings.push(Finding::new("Makefile", 0, format!("has no target `{target}`")));
        }
    }
    findings
}

/// Relative links in Markdown lead to a file or folder of the tree.
pub fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files().filter(|(path, _)| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (at, line) in text.lines().enumerate() {
            for (start, _) in line.match_indices("](") {
                let target = line[start + 2..].split(')').next().unwrap_or("");
                let target = target.split('#').next().unwrap_or("");
                let elsewhere = target.contains("://") || target.is_empty();
                if !elsewhere && resolve(folder, target).is_none_or(|to| !tree.has(&to)) {
                    findings.push(Finding::new(path, at + 1, format!("`{target}` does not exist")));
                }
            }
        }
    }
    findings
}

/// A link's target below the root; `None` if it leaves the tree.
fn resolve(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Every key that a reload compares is in the example file and in the operator's table.
pub fn configuration_keys(tree: &Tree) -> Vec<Finding> {
    let Some(config) = tree.get(CONFIG) else { return Vec::new() };
    let keys = keys(config);
    if keys.is_empty() {
        return vec![Finding::new(
            CONFIG,
            0,
            "no keys found: `fn reload` no longer lists them as `(\"key\", a.`",
        )];
    }
    let mut findings = Vec::new();
    for key in keys {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        let example = tree.get(CONFIG_EXAMPLE).unwrap_or("");
        if !in_example(example, table, name) {
            findings.push(Finding::new(CONFIG_EXAMPLE, 0, format!("`{key}` is missing")));
        }
        if !tree.get(OPERATIONS).is_some_and(|text| text.contains(&format!("`{key}`"))) {
            findings.push(Finding::new(OPERATIONS, 0, format!("`{key}` is missing")));
        }
    }
    findings
}

fn keys(config: &str) -> Vec<&str> {
    let listed = |line: &'_ str| line.trim_start().starts_with("(\"") && line.contains("\", a.");
    config.lines().filter(|line| listed(line)).filter_map(|line| line.split('"').nth(1)).collect()
}

/// Whether the example has `name = ` or `# name = ` in its table.
fn in_example(example: &str, table: &str, name: &str) -> bool {
    let mut current = "";
    example.lines().any(|line| {
        if let Some(next) = line.strip_prefix('[') {
            current = next.trim_end_matches(']');
        }
        let line = line.trim_start_matches("# ").trim_start_matches('#');
        current == table && line.split('=').next().is_some_and(|key| key.trim() == name) && line.contains('=')
    })
}

/// `docs/decisions/NNNN-what.md`, from 0001 without gaps or repetitions.
pub fn decisions(tree: &Tree) -> Vec<Finding> {
    let of = |(path, _)| str::strip_prefix(path, "docs/decisions/");
    let mut findings = Vec::new();
    for (at, name) in tree.files().filter_map(of).enumerate() {
        if !name.starts_with(&format!("{:04}-", at + 1)) {
            let sentence = format!("the next number is {:04}", at + 1);
            findings.push(Finding::new(&format!("docs/decisions/{name}"), 0, sentence));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.insert(path, (*text).into());
        }
        tree
    }

    #[test]
    fn links_are_followed_from_where_they_stand() {
        let good = "[a](../README.md) [b](WIRE.md#frames) [c](https://example.org/x) [d](decisions/)";
        let files =
            [("README.md", ""), ("docs/WIRE.md", ""), ("docs/decisions/0001-a.md", ""), ("docs/A.md", good)];
        assert_eq!(links(&tree(&files)), []);
        assert_eq!(links(&tree(&[("docs/A.md", "x\n[a](B.md)")])).len(), 1);
        assert_eq!(links(&tree(&[("A.md", "[a](../B.md) ![b](b.png)")])).len(), 2);
    }

    #[test]
    fn an_undocumented_key_is_found_twice() {
        let config = "let fixed = [\n    (\"listen.http\", a.x != b.x),\n    (\"shards\", a.y != b.y),\n];\n";
        let example = "# shards = 0\n[listen]\n# http = \"127.0.0.1:7800\"\n";
        let table = "| `listen.http` |\n| `shards` |\n";
        assert_eq!(
            configuration_keys(&tree(&[(CONFIG, config), (CONFIG_EXAMPLE, example), (OPERATIONS, table)])),
            []
        );
        let elsewhere = "# shards = 0\n[web]\n# http = \"127.0.0.1:7800\"\n";
        assert_eq!(configuration_keys(&tree(&[(CONFIG, config), (CONFIG_EXAMPLE, elsewhere)])).len(), 3);
        assert_eq!(configuration_keys(&tree(&[(CONFIG, "fn reload() {}")])).len(), 1);
    }

    #[test]
    fn decisions_are_dense() {
        assert_eq!(
            decisions(&tree(&[("docs/decisions/0001-a.md", ""), ("docs/decisions/0002-b.md", "")])),
            []
        );
        assert_eq!(decisions(&tree(&[("docs/decisions/0002-b.md", "")])).len(), 1);
    }

    #[test]
    fn a_readme_without_the_commands_is_found() {
        assert_eq!(commands(&tree(&[])).len(), 6);
        let text = "make run\nmake test\n";
        let files = [("README.md", text), ("README.zh.md", text), ("Makefile", "run: build\ntest: tools\n")];
        assert_eq!(commands(&tree(&files)), []);
    }
}
