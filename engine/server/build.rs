//! Embeds the built web pages (`tools/web/dist`), if they were built. Without them the binary serves one page that
//! says how to build them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let pages = root.join("../../tools/web/dist");
    let mut files = Vec::new();
    collect(&pages, &mut files);
    files.sort();
    // A path that does not exist counts as changed at each build: pages built later are then noticed.
    println!("cargo:rerun-if-changed={}", pages.display());
    println!("cargo:rerun-if-changed=build.rs");

    let mut code = String::from("/// Every embedded file, by path.\npub static ASSETS: &[Asset] = &[\n");
    for file in &files {
        let name = file.strip_prefix(&pages).expect("below dist").to_str().expect("UTF-8 file names");
        let content = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let hash = xxhash_rust::xxh3::xxh3_128(&content);
        let path = std::fs::canonicalize(file).expect("exists");
        writeln!(
            code,
            "    Asset {{ path: {name:?}, content_type: {:?}, etag: \"\\\"{hash:032x}\\\"\", bytes: include_bytes!({:?}) }},",
            content_type(name),
            path.to_str().expect("UTF-8 path")
        )
        .expect("a string takes all");
    }
    code.push_str("];\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    std::fs::write(out.join("assets.rs"), code).expect("OUT_DIR is writable");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_none_or(|extension| extension != "map") {
            files.push(path);
        }
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "webmanifest" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
