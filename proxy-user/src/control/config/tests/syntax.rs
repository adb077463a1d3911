//! Texts that are not TOML: one message, which says what they look like.

use super::parse;
use super::{LISTEN, ROUTE, UPSTREAM, assert_errors, errors_of};

/// There is one error, at the mark, and it says that this is not TOML and why.
#[track_caller]
fn assert_not_toml(marked: &str, why: &str) {
    assert_errors(marked, &[&format!("this is not TOML: {why}")]);
}

#[test]
fn another_programs_syntax_is_named_once() {
    let write = "write it as TOML, as 'snisplice config default' prints it";
    for (text, line, name) in [
        ("§frontend x\n  bind *:443\n  mode tcp\n", "frontend x", "HAProxy"),
        ("# x\n  §bind *:443\n", "bind *:443", "HAProxy"),
        ("§global\n  log /dev/log local0\ndefaults\n  mode tcp\n", "global", "HAProxy"),
        ("§server { listen 443; }\n", "server { listen 443; }", "nginx"),
        ("§stream {\n  server { listen 443; }\n}\n", "stream {", "nginx"),
        ("§a { b { c { d { e { f 1; } } } } }\n", "a { b { c { d { e { f 1; } } } }...", "nginx"),
        ("\n§worker_processes 1;\n", "worker_processes 1;", "nginx"),
        ("§listen:\n  - name: x\n    address: y\n", "listen:", "YAML"),
        ("§---\nlisten:\n", "---", "YAML"),
        ("§- name: x\n", "- name: x", "YAML"),
        ("[[listen]]\n§name: x\n", "name: x", "YAML"),
        ("§{ 'listen': [] }\n", "{ 'listen': [] }", "JSON"),
        ("§<listen/>\n", "<listen/>", "XML"),
    ] {
        assert_not_toml(text, &format!("'{line}' looks like {name}; {write}"));
    }
}

#[test]
fn a_comment_of_another_syntax_is_named() {
    let begin = "begin comments with '#'";
    for (text, mark) in [
        ("§; x\n[[listen]]\n", ";"),
        ("[[listen]]\n  §// x\n", "//"),
        ("§/* x */\n", "/*"),
        ("[[listen]]\nname = 'a' §; x\n", ";"),
        ("[[listen]]\nname = 'a' §// x\n", "//"),
        ("[[route]]\ndefault = true §// x\n", "//"),
    ] {
        assert_not_toml(text, &format!("'{mark}' begins no comment; {begin}"));
    }
    for text in ["[[listen]]\nname = 'a'§;\n", "[[route]]\ndefault = true§; # x\n"] {
        assert_not_toml(text, "a line does not end with ';'; remove the ';'");
    }
}

#[test]
fn typographic_characters_are_named() {
    for (text, quote) in [
        ("[[listen]]\nname = §“a”\n", '“'),
        ("[[listen]]\nname = §‘a’\n", '‘'),
        ("[[route]]\nsni = [\"a.b§”, “c”]\n", '”'),
        ("[[listen]]\n§„name“ = 'a'\n", '„'),
    ] {
        assert_not_toml(
            text,
            &format!("{quote} is a typographic quote; write a plain \" before and after the text"),
        );
    }
    assert_not_toml(
        "[[listen]]\nname§\u{a0}= 'a'\n",
        "here is an invisible character, U+00A0; remove it, or write a plain space",
    );
    // They are no mistake in strings and comments.
    let text = format!("# “x”\n{LISTEN}{ROUTE}{UPSTREAM}[admin]\nsocket = '/“x”'\n");
    assert!(parse(&text, "test.toml").is_ok());
    assert_eq!(
        errors_of("a = '“' x\n").to_string(),
        "test.toml:1:9: not valid TOML: unexpected key or value, expected newline, `#`; correct this first, the rest of \
         the file is checked after it"
    );
}

#[test]
fn a_value_without_quotes_is_shown_with_them() {
    assert_errors("[[listen]]\nname = §web # x\n", &["the value has no quotes; write it as \"web\""]);
    assert_errors("[[route]]\ndefault = §yes\n", &["\"yes\" is not a value of TOML; write true or false"]);
}

#[test]
fn a_backslash_in_double_quotes_is_explained() {
    assert_errors(
        "[admin]\nsocket = §\"C:\\run\\x\"\n",
        &["\"C:\\run\\x\" is a path of Windows; write a Unix path, such as \"/run/snisplice/admin.sock\""],
    );
    assert_errors(
        "[[route]]\nsni = §\"a\\.b\"\n",
        &[
            "a backslash in double quotes begins an escape, and this is none; write two backslashes, or put the text in \
           single quotes",
        ],
    );
}

#[test]
fn a_section_that_is_there_twice_is_shown_with_the_first() {
    let twice = |section: &str, first: &str, second: &str| {
        format!("# x\n{first}\nname = 'a'\n{LISTEN}{second}\nname = 'b'\n")
            .replace("[[listen]]\nname = 'tls'", section)
    };
    for name in ["listen", "route", "upstream"] {
        let (one, many) = (format!("[{name}]"), format!("[[{name}]]"));
        for (first, second) in
            [(&one, format!("[§{name}]")), (&many, format!("[§{name}]")), (&one, format!("[[§{name}]]"))]
        {
            assert_errors(
                &twice("[timeouts]", first, &second),
                &[&format!("'{name}' is already at line 2, column 1; use [[{name}]] for each of them")],
            );
        }
        let alone = format!("§{one}\n");
        let errors = errors_of(&alone.replace('§', "")).to_string();
        assert!(
            errors.contains(&format!("so [{name}] is not enough; use [[{name}]] for each of them")),
            "{errors}"
        );
    }
    assert_errors(
        "[admin]\nhttp = ''\n[§admin]\nsocket = ''\n",
        &["'admin' is already at line 1, column 1; put all keys of [admin] into one"],
    );
}

#[test]
fn a_key_that_is_there_twice_is_shown_with_the_first() {
    assert_errors(
        "[[route]]\nname = 'x'\n[[route]]\n  name = 'a'\nto = 'b'\n§name = 'b'\n",
        &[
            "'name' is already at line 4, column 3; remove one of the two, or begin another [[route]] before this one",
        ],
    );
    assert_errors(
        "[admin]\nhttp = ''\n§http = ''\n",
        &["'http' is already at line 2, column 1; remove one of the two"],
    );
}
