//! Rust text split into code and comments, line by line, strings blanked in both: so that a check for a word finds the
//! word where it means something, and not in a sentence about it.

/// A Rust file, taken apart. All three have the same number of lines.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Masked {
    /// Code: comments and the contents of strings are spaces.
    pub code: Vec<String>,
    /// Comments: everything else is spaces.
    pub comments: Vec<String>,
    /// Whether the line belongs to a `#[cfg(test)] mod name { ... }`.
    pub test: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Code,
    Line,
    /// Depth: block comments nest.
    Block(u32),
    /// A string, and how many `#` close it; `None`: an ordinary one, in which a backslash escapes.
    Text(Option<usize>),
}

/// Takes a file apart.
pub fn mask(text: &str) -> Masked {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::with_capacity(text.len()), String::with_capacity(text.len()));
    let mut inside = Inside::Code;
    let mut at = 0;
    while at < chars.len() {
        let (length, next) = piece(&chars, at, inside);
        let commented = matches!(inside, Inside::Line | Inside::Block(_))
            || matches!(next, Inside::Block(_) | Inside::Line);
        for &c in &chars[at..at + length] {
            if c == '\n' {
                code.push('\n');
                comments.push('\n');
                continue;
            }
            let literal = inside != Inside::Code || matches!(next, Inside::Text(_));
            code.push(if commented || literal { ' ' } else { c });
            comments.push(if commented { c } else { ' ' });
        }
        inside = next;
        at += length;
    }
    let code: Vec<String> = code.lines().map(str::to_string).collect();
    let test = tests_of(&code);
    Masked { comments: comments.lines().map(str::to_string).collect(), test, code }
}

/// How many characters from `at` on belong together, and what comes after them.
fn piece(chars: &[char], at: usize, inside: Inside) -> (usize, Inside) {
    let next = chars.get(at + 1).copied();
    match (inside, chars[at]) {
        (Inside::Code, '/') if next == Some('/') => (2, Inside::Line),
        (Inside::Code, '/') if next == Some('*') => (2, Inside::Block(1)),
        (Inside::Code, '"') => (1, Inside::Text(None)),
        (Inside::Code, 'r') if !follows_name(chars, at) => match raw(&chars[at + 1..]) {
            Some(hashes) => (hashes + 2, Inside::Text(Some(hashes))),
            None => (1, Inside::Code),
        },
        // A character literal, not a lifetime: '\n', '"', '/'.
        (Inside::Code, '\'') if next == Some('\\') => {
            let end = chars[at + 3..].iter().position(|&c| c == '\'').map_or(chars.len() - at, |end| end + 4);
            (end, Inside::Code)
        }
        (Inside::Code, '\'') if chars.get(at + 2) == Some(&'\'') => (3, Inside::Code),
        (Inside::Line, '\n') => (1, Inside::Code),
        (Inside::Block(depth), '*') if next == Some('/') => {
            // The closing mark is part of the comment: it is taken on its own, so that code follows.
            (2, if depth == 1 { Inside::Code } else { Inside::Block(depth - 1) })
        }
        (Inside::Block(depth), '/') if next == Some('*') => (2, Inside::Block(depth + 1)),
        (Inside::Text(None), '\\') if next.is_some() => (2, inside),
        (Inside::Text(None), '"') => (1, Inside::Code),
        (Inside::Text(Some(hashes)), '"')
            if chars[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes =>
        {
            (hashes + 1, Inside::Code)
        }
        _ => (1, inside),
    }
}

fn follows_name(chars: &[char], at: usize) -> bool {
    // `br"..."` is a raw string too.
    let before = if at > 0 && chars[at - 1] == 'b' { at - 1 } else { at };
    before > 0 && (chars[before - 1].is_alphanumeric() || chars[before - 1] == '_')
}

/// The number of `#` of a raw string that starts after its `r`.
fn raw(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|&&c| c == '#').count();
    (rest.get(hashes) == Some(&'"')).then_some(hashes)
}

/// Which lines belong to a test module written in place. Formatted code: it ends with `}` in the column it began in.
fn tests_of(code: &[String]) -> Vec<bool> {
    let mut test = vec![false; code.len()];
    let mut at = 0;
    while at < code.len() {
        let opens = is_test_attribute(&code[at])
            && code
                .get(at + 1)
                .is_some_and(|next| next.trim_start().starts_with("mod ") && next.trim_end().ends_with('{'));
        if !opens {
            at += 1;
            continue;
        }
        let indent = code[at + 1].len() - code[at + 1].trim_start().len();
        let close = format!("{}}}", " ".repeat(indent));
        let end = code[at..]
            .iter()
            .position(|line| line.trim_end() == close)
            .map_or(code.len(), |end| at + end + 1);
        test[at..end].fill(true);
        at = end;
    }
    test
}

/// `#[cfg(test)]`, also with further conditions.
pub fn is_test_attribute(line: &str) -> bool {
    matches!(line.trim(), "#[cfg(test)]") || line.trim().starts_with("#[cfg(all(test,")
}

/// Whether `word` stands in `line` on its own, not as part of a longer name. A word that ends in `::` or `!` may be
/// followed by anything.
pub fn has_word(line: &str, word: &str) -> bool {
    let name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_none_or(|c| !name(c));
        let after = line[at + word.len()..].chars().next().is_none_or(|c| !name(c));
        before && (after || !word.ends_with(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        mask(text).code.join("\n")
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        assert_eq!(code("a // b\nc").trim_end(), "a     \nc");
        assert_eq!(code("a /* b /* c */ d */ e").replace(' ', ""), "ae");
        assert_eq!(code(r#"x("b // c \" d", e)"#).replace(' ', ""), "x(,e)");
        assert_eq!(code("x(r#\"b \" c\"#, e)").replace(' ', "").replace("\"#", ""), "x(,e)");
        assert_eq!(code("'\"'; b // '").replace(' ', ""), "'\"';b");
        assert_eq!(code("fn a<'a>(b: &'a str) {}"), "fn a<'a>(b: &'a str) {}");
    }

    #[test]
    fn comments_keep_their_lines() {
        let masked = mask("let a = \"x // y\"; // why\n// more\nb");
        assert_eq!(masked.comments[0].trim(), "// why");
        assert_eq!(masked.comments[1].trim(), "// more");
        assert_eq!(masked.comments[2].trim(), "");
        assert_eq!(masked.code.len(), masked.comments.len());
    }

    #[test]
    fn a_test_module_ends_where_it_ends() {
        let masked = mask("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n");
        assert_eq!(masked.test, [false, true, true, true, true, true, false]);
        assert_eq!(mask("#[cfg(test)]\nmod tests;\nfn c() {}").test, [false, false, false]);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("std::thread::spawn", "std::thread"));
        assert!(!has_word("my_std::threads", "std::thread"));
        assert!(!has_word("not_todo!()", "todo!"));
        assert!(has_word(" todo!()", "todo!"));
    }
}
