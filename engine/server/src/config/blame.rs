//! What is said of a value that is not taken: in an operator's words, and where it stands.

use std::path::Path;

use super::ConfigError;

/// The parser's words for types, in an operator's.
pub(super) fn plain(message: &str) -> String {
    let mut sentence = message.to_string();
    for (word, meaning) in [
        ("expected u16", "expected a whole number from 0 to 65535"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u64", "expected a whole number, 0 or more"),
        ("invalid socket address syntax", "expected an address and a port, as in \"127.0.0.1:7800\""),
        ("invalid type: ", "wrong type: "),
    ] {
        sentence = sentence.replace(word, meaning);
    }
    sentence
}

/// Why no browser can send this as its origin (RFC 6454, section 6.2); `None` if one can.
pub(super) fn wrong_origin(origin: &str) -> Option<String> {
    if origin == "*" {
        return None;
    }
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
        return Some(format!("holds `{origin}`; an origin is `*`, `http://HOST` or `https://HOST`"));
    };
    if let Some((host, _)) = rest.split_once('/') {
        let scheme = &origin[..origin.len() - rest.len()];
        return Some(format!("holds `{origin}`; an origin has no path, write `{scheme}{host}`"));
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    (!rest.bytes().all(good)).then(|| format!("holds `{origin}`, in which `{rest}` is no host"))
}

/// The error with the line that the value stands on.
pub(super) fn placed(error: ConfigError, path: &Path, text: &str) -> ConfigError {
    let ConfigError::Value { key, sentence, .. } = error else { return error };
    let place = line_of(key, text).map(|line| (path.to_path_buf(), line));
    ConfigError::Value { key, sentence, place }
}

/// The line, from 1, on which a key stands: as `name =` below `[table]`, as `table.name =`, or inside `table = {`.
fn line_of(key: &str, text: &str) -> Option<usize> {
    let (table, _) = key.split_once('.').unwrap_or(("", key));
    let (mut within, mut inline) = (String::new(), None);
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        if let Some(name) = content.strip_prefix('[') {
            within = name.split(']').next().unwrap_or("").trim().to_string();
            continue;
        }
        let name: String = content.split('=').next().unwrap_or("").split_whitespace().collect();
        let full = if within.is_empty() { name } else { format!("{within}.{name}") };
        if full == key {
            return Some(line);
        }
        if full == table && inline.is_none() {
            inline = Some(line);
        }
    }
    inline
}
