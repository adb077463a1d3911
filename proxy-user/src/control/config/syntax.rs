//! Why a text is not TOML: what it looks like instead, and what is on its way to be TOML.
//!
//! All of this is a guess for a message, made after the parser has refused the text.

use toml_parser::Source;
use toml_parser::lexer::{Token, TokenKind};

use super::report::{Fault, quote};

/// Words that begin a line of HAProxy's configuration, and none of ours.
const HAPROXY: [&str; 20] = [
    "acl",
    "backend",
    "balance",
    "bind",
    "default_backend",
    "defaults",
    "frontend",
    "global",
    "listen",
    "log",
    "maxconn",
    "mode",
    "option",
    "server",
    "stats",
    "tcp-request",
    "timeout",
    "use-server",
    "use_backend",
    "userlist",
];

/// Characters of a line that a message repeats.
const MAX_SHOWN: usize = 32;

const WRITE_TOML: &str = "write it as TOML, as 'snisplice config default' prints it";

/// A mistake and its byte offset.
pub(super) type Mistake = (usize, Fault);

/// What is wrong at byte `at`, where the parser has stopped. None: nothing better to say than it has.
pub(super) fn explain(text: &str, at: usize) -> Option<Mistake> {
    let start = line_start(text, at);
    let line = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let tokens = || line_tokens(text, start, start + line.len());
    let first = start + (line.len() - line.trim_start().len());
    foreign(text, line)
        .map(|fault| (first, fault))
        .or_else(|| typographic(text, tokens()))
        .or_else(|| comment(text, at).map(|fault| (at, fault)))
        .or_else(|| escape(text, at, tokens()))
        .or_else(|| semicolon(line).map(|column| (start + column, ends_with_semicolon())))
        .or_else(|| unquoted(text, at))
}

/// What a whole text is that is not TOML by its first line.
pub(super) fn explain_start(text: &str) -> Option<Mistake> {
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let line = text.lines().find(is_code)?;
    let at = line.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    let indent = line.len() - line.trim_start().len();
    foreign(text, line).map(|fault| (at + indent, fault))
}

fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1)
}

/// The tokens that stand in these bytes, at least in part.
fn line_tokens(text: &str, start: usize, end: usize) -> impl Iterator<Item = Token> {
    let tokens = Source::new(text).lex();
    tokens
        .skip_while(move |token| token.span().end() <= start)
        .take_while(move |token| token.span().start() < end)
}

fn not_toml(what: impl std::fmt::Display, way_out: impl Into<String>) -> Fault {
    Fault::new(format!("this is not TOML: {what}"), way_out)
}

/// A line in another program's syntax.
fn foreign(text: &str, line: &str) -> Option<Fault> {
    let line = line.strip_prefix('\u{feff}').unwrap_or(line).trim();
    if line.starts_with(';') {
        return Some(not_toml("';' begins no comment", "begin comments with '#'"));
    }
    if line.starts_with("//") || line.starts_with("/*") {
        let begin = line.get(..2).unwrap_or_default();
        return Some(not_toml(format_args!("'{begin}' begins no comment"), "begin comments with '#'"));
    }
    let name = looks_like(text, line)?;
    let (shown, more) = match line.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => (line.get(..end).unwrap_or_default(), "..."),
        None => (line, ""),
    };
    Some(not_toml(format_args!("'{shown}{more}' looks like {name}"), WRITE_TOML))
}

fn looks_like(text: &str, line: &str) -> Option<&'static str> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let code = line.split('#').next().unwrap_or_default().trim_end();
    if text.starts_with('<') {
        return Some("XML");
    }
    if text.starts_with('{') && !text.starts_with("{{") {
        return Some("JSON");
    }
    if code == "---" || code.starts_with("- ") {
        return Some("YAML");
    }
    if code.contains('=') || code.starts_with('[') {
        return None;
    }
    if code.ends_with(['{', ';']) || code == "}" || code.contains(" {") {
        return Some("nginx");
    }
    if let Some((key, rest)) = code.split_once(':')
        && is_word(key)
        && (rest.is_empty() || rest.starts_with(' '))
    {
        return Some(if key.starts_with('"') { "JSON" } else { "YAML" });
    }
    HAPROXY.contains(&code.split_whitespace().next()?).then_some("HAProxy")
}

fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"');
    !text.is_empty() && text.chars().all(plain)
}

/// A character that a word processor or a web page has put in the place of a plain one.
fn typographic(text: &str, tokens: impl Iterator<Item = Token>) -> Option<Mistake> {
    for token in tokens.filter(|token| may_hold(text, token)) {
        let (start, part) = (token.span().start(), slice(text, &token));
        for (offset, c) in part.char_indices() {
            let code = u32::from(c);
            let fault = match c {
                '“' | '”' | '„' | '‟' | '«' | '»' | '‘' | '’' | '‚' | '‛' => not_toml(
                    format_args!("{c} is a typographic quote"),
                    "write a plain \" before and after the text",
                ),
                '\u{a0}' | '\u{2000}'..='\u{200d}' | '\u{202f}' | '\u{2060}' | '\u{3000}' | '\u{feff}' => {
                    not_toml(
                        format_args!("here is an invisible character, U+{code:04X}"),
                        "remove it, or write a plain space",
                    )
                }
                _ => continue,
            };
            return Some((start + offset, fault));
        }
    }
    None
}

/// Where such a character is a mistake: outside of strings, and in one that does not end.
fn may_hold(text: &str, token: &Token) -> bool {
    let part = slice(text, token);
    match token.kind() {
        TokenKind::Atom => true,
        TokenKind::BasicString => part.len() < 2 || !part.ends_with('"'),
        TokenKind::LiteralString => part.len() < 2 || !part.ends_with('\''),
        _ => false,
    }
}

fn slice<'t>(text: &'t str, token: &Token) -> &'t str {
    text.get(token.span().start()..token.span().end()).unwrap_or_default()
}

/// A comment of another syntax behind a value.
fn comment(text: &str, at: usize) -> Option<Fault> {
    let rest = text.get(at..)?;
    let begin = [";", "//", "/*"].into_iter().find(|begin| rest.starts_with(begin))?;
    let is_last = begin == ";" && rest.lines().next().is_some_and(|line| line.trim_end() == ";");
    Some(match is_last {
        true => ends_with_semicolon(),
        false => not_toml(format_args!("'{begin}' begins no comment"), "begin comments with '#'"),
    })
}

fn ends_with_semicolon() -> Fault {
    not_toml("a line does not end with ';'", "remove the ';'")
}

fn semicolon(line: &str) -> Option<usize> {
    let code = line.split('#').next().unwrap_or_default().trim_end();
    code.strip_suffix(';').map(str::len)
}

/// A backslash in double quotes.
fn escape(text: &str, at: usize, mut tokens: impl Iterator<Item = Token>) -> Option<Mistake> {
    let token = tokens.find(|token| {
        token.span().start() <= at && at <= token.span().end() && {
            token.kind() == TokenKind::BasicString && slice(text, token).contains('\\')
        }
    })?;
    let content = slice(text, &token).trim_matches('"');
    let fault = if is_windows_path(content) {
        let what = format!("{} is a path of Windows", quote_plainly(content));
        Fault::new(what, "write a Unix path, such as \"/run/snisplice/admin.sock\"")
    } else {
        Fault::new(
            "a backslash in double quotes begins an escape, and this is none",
            "write two backslashes, or put the text in single quotes",
        )
    };
    Some((token.span().start(), fault))
}

/// `C:\dir`, `C:/dir` or `\\server\share`.
pub(super) fn is_windows_path(text: &str) -> bool {
    let mut characters = text.chars();
    let drive = characters.next().is_some_and(|c| c.is_ascii_alphabetic()) && characters.next() == Some(':');
    // A tab, or another control character, is what an escape in double quotes has made of a backslash.
    let root = characters.next().is_some_and(|c| matches!(c, '\\' | '/') || c.is_control());
    drive && root || text.starts_with("\\\\")
}

/// In quotes and as it was written, backslashes and all.
fn quote_plainly(text: &str) -> String {
    quote(text).replace("\\\\", "\\")
}

/// A value without quotes.
fn unquoted(text: &str, at: usize) -> Option<Mistake> {
    let before = text.get(line_start(text, at)..at)?;
    if before.ends_with('$') && text.get(at..)?.starts_with('{') {
        let value = text.get(at - 1..)?.split(['\n', ',', ']']).next()?.trim_end();
        return Some((at - 1, not_substituted(value)));
    }
    if !before.trim_end().ends_with(['=', '[', ',']) {
        return None;
    }
    let rest = text.get(at..)?.lines().next()?;
    let value = rest.split(['#', ',', ']', '"', '\'']).next()?.trim();
    if value.is_empty() || value.starts_with(['{', '[', '}']) || value.contains('=') {
        return None;
    }
    // Where the value is good, what is behind it is not.
    if let Some((word, begin)) = value.split_once(char::is_whitespace)
        && matches!(word, "true" | "false")
    {
        let offset = value.len() - begin.trim_start().len();
        return comment(text, at + offset).map(|fault| (at + offset, fault));
    }
    let fault = if value.starts_with('$') {
        not_substituted(value)
    } else if ["yes", "no", "on", "off", "true", "false"].contains(&value.to_ascii_lowercase().as_str()) {
        Fault::new(format!("{} is not a value of TOML", quote(value)), "write true or false")
    } else {
        Fault::new("the value has no quotes", format!("write it as {}", quote(value)))
    };
    Some((at, fault))
}

/// The text of a value, if nothing in it is for another program to fill in.
pub(super) fn literal(text: &str) -> Result<&str, Fault> {
    let name = text.strip_prefix('$').and_then(|name| name.chars().next());
    let is_variable = name.is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let is_open = text.contains("${") || text.contains("{{") || is_variable;
    if is_open { Err(not_substituted(text)) } else { Ok(text) }
}

/// The fault of a value that has a variable in it, for another program to fill in.
fn not_substituted(value: &str) -> Fault {
    let what = format!("variables are not substituted, and {} has one", quote(value));
    Fault::new(what, "write the value itself")
}
