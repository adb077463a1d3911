//! Errors in the shape of the file: syntax, sections, keys and types.

use super::super::report::MAX_PROBLEMS;
use super::{
    LISTEN, ROUTE, UPSTREAM, assert_errors, assert_listen_error, assert_route_error, assert_section_error,
    assert_upstream_error, errors_of,
};

#[test]
fn of_a_text_that_is_not_toml_one_mistake_is_reported() {
    let rest = "correct this first, the rest of the file is checked after it";
    for (text, what) in [
        ("[[listen]]\nname §'web'\n", "key with no value, expected `=`"),
        ("a = { b = 1, §b = 2 }\n", "duplicate key"),
        ("# \u{e9}\n[admin§", "unclosed table, expected `]`"),
        ("[admin]\nhttp = 'é' §x\n", "unexpected key or value, expected newline, `#`"),
    ] {
        assert_errors(text, &[&format!("not valid TOML: {what}; {rest}")]);
    }
}

#[test]
fn an_unknown_section_is_an_error_with_the_nearest_one() {
    assert_section_error("[§timeout]", "unknown section \"timeout\"; did you mean 'timeouts'?");
    assert_section_error("[[§upstraem]]", "unknown section \"upstraem\"; did you mean 'upstream'?");
    assert_section_error(
        "[§tls]",
        "unknown section \"tls\"; remove it; the sections are [[listen]], [[route]], [[upstream]], [admin], \
         [timeouts], [limits], [guard], [packet]",
    );
    assert_errors(
        &format!("§hold = '1s'\n{LISTEN}{ROUTE}{UPSTREAM}"),
        &["unknown section \"hold\"; 'hold' is a key of [[upstream]]: move it there"],
    );
}

#[test]
fn an_unknown_key_is_an_error_with_the_nearest_one() {
    assert_listen_error(
        "name = 'a'\naddress = 'a:1'\n§adress = ''".replace("'a:1'", "'[::]:1'").as_str(),
        "unknown key \"adress\" in [[listen]]; did you mean 'address'?",
    );
    assert_route_error(
        "name = 'a'\ndefault = true\n§hold = '1s'",
        "unknown key \"hold\" in [[route]]; 'hold' is a key of [[upstream]]: move it there",
    );
    assert_upstream_error(
        "servers = 'a:1'\n§weight = 1",
        "unknown key \"weight\" in [[upstream]]; remove it; the keys are name, servers, datapath, hold",
    );
    assert_section_error(
        "[admin]\n§sokcet = ''",
        "unknown key \"sokcet\" in [admin]; did you mean 'socket'?",
    );
    assert_section_error(
        "[timeouts]\n§'half-close' = '1s'",
        "unknown key \"half-close\" in [timeouts]; did you mean 'half_close'?",
    );
}

#[test]
fn a_key_that_is_needed_and_missing_is_reported_at_its_entry() {
    assert_errors(
        "§§[[listen]]\n§§[[route]]\ndefault = true\n§§[[upstream]]\n",
        &[
            "this [[listen]] has no 'name'; add name = \"web\"",
            "this [[listen]] has no 'address'; add address = [\"[::]:443\"]",
            "this [[route]] has no 'name'; add name = \"web\"",
            "this [[route]] has no 'to'; add to = \"octopus-web\"",
            "this [[upstream]] has no 'name'; add name = \"web\"",
            "this [[upstream]] has no 'servers'; add servers = [\"10.0.0.5:8443\"]",
        ],
    );
}

#[test]
fn a_wrong_type_says_the_right_one() {
    assert_listen_error(
        "name = §1\naddress = '[::]:1'",
        "'name' must be a string, not an integer; write name = \"web\"",
    );
    assert_listen_error(
        "name = 'a'\naddress = §{}",
        "'address' must be an array of strings, not a table; write address = [\"[::]:443\"]",
    );
    assert_listen_error("name = 'a'\naddress = §[]", "'address' is empty; write address = [\"[::]:443\"]");
    assert_route_error("name = 'a'\nsni = §[]", "'sni' is empty; write sni = [\"polling.**\"]");
    assert_listen_error(
        "name = 'a'\naddress = ['[::]:1', §443]",
        "an entry of 'address' must be a string, not an integer; write address = [\"[::]:443\"]",
    );
    assert_route_error(
        "name = 'a'\ndefault = §'yes'",
        "'default' must be true or false, not a string; write default = true",
    );
    assert_route_error(
        "name = 'a'\nsni = §1.5",
        "'sni' must be an array of strings, not a float; write sni = [\"polling.**\"]",
    );
    assert_upstream_error(
        "servers = 'a:1'\nhold = §1979-05-27",
        "'hold' must be a string, not a date; write hold = \"15s\"",
    );
    assert_section_error(
        "[admin]\nhttp = §false",
        "'http' must be a string, not a boolean; write http = \"127.0.0.1:10944\"",
    );
}

#[test]
fn a_duration_without_a_unit_is_shown_as_a_string() {
    let rest = "write it as a string with ms, s, m or h, such as";
    assert_section_error(
        "[timeouts]\nhello = §10",
        &format!("'hello' is a number without a unit; {rest} \"10s\""),
    );
    assert_upstream_error(
        "servers = 'a:1'\nhold = §15",
        &format!("'hold' is a number without a unit; {rest} \"15s\""),
    );
}

#[test]
fn a_section_of_the_wrong_kind_is_reported_and_still_read() {
    assert_errors(
        &format!("§[listen]\nname = §'A'\naddress = '[::]:443'\n{ROUTE}{UPSTREAM}"),
        &[
            "there can be several of 'listen', so [listen] is not enough; use [[listen]] for each of them",
            "\"A\" is not a name; use 1 to 63 of a-z, 0-9, '-' and '_', and begin with a letter or digit",
        ],
    );
    assert_section_error("§[[admin]]", "there is only one 'admin', so [[admin]] is too much; use [admin]");
    assert_errors(
        &format!("upstream = [§1]\n{LISTEN}to = 'web'\n"),
        &["'upstream' is not an integer; write [[upstream]], once for each entry, and its keys below it"],
    );
    assert_errors(
        &format!("{LISTEN}to = §'web'\n"),
        &["unknown upstream \"web\"; there is no [[upstream]] yet: add one with name = \"web\""],
    );
}

#[test]
fn columns_count_characters_and_no_byte_order_mark() {
    assert_errors(
        &format!("{LISTEN}{ROUTE}[[upstream]]\nname = 'web'\nservers = ['日本:1', §'é']\n")
            .replace("'日", "§'日"),
        &[
            "\"日本:1\" is not a server; write IP:port or host:port, for example \"10.0.0.5:8443\", \
             \"[2001:db8::5]:8443\" or \"backend.example:8443\"",
            "\"é\" is not a server; add the port, for example \"10.0.0.5:8443\", \"[2001:db8::5]:8443\" or \
             \"backend.example:8443\"",
        ],
    );
    let errors = errors_of("\u{feff}x = 1\r\n\ty = 1\r\n");
    let places: Vec<_> = errors.problems.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(Some(1), Some(1)), (Some(1), Some(1)), (Some(2), Some(2))]);
}

#[test]
fn an_error_stays_on_its_line_whatever_the_value() {
    let errors = errors_of(&format!("{LISTEN}{ROUTE}{UPSTREAM}[\"a\\n\\u001b\"]\n[admin]\nhttp = 'é'\n"));
    assert_eq!(
        errors.to_string(),
        "test.toml:11:2: unknown section \"a\\n\\u{1b}\"; remove it; the sections are [[listen]], [[route]], \
         [[upstream]], [admin], [timeouts], [limits], [guard], [packet]\n\
         test.toml:13:8: \"é\" is not an IP:port; write a loopback address such as \"127.0.0.1:10944\", or \"\" \
         for no HTTP"
    );
    let text = format!("{LISTEN}{UPSTREAM}[[route]]\nname = 'web'\nto = 'web'\nsni = \"a\\n\\u001b*\"\n");
    let shown = errors_of(&text).to_string();
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(!shown.contains(char::is_control), "{shown}");
    let long = format!("{LISTEN}{ROUTE}{UPSTREAM}[admin]\nhttp = '{}'\n", "é".repeat(10_000));
    assert!(errors_of(&long).to_string().len() < 400);
}

#[test]
fn more_errors_than_anyone_reads_are_counted() {
    let text = format!("{LISTEN}{ROUTE}{UPSTREAM}[admin]\n")
        + &(0..MAX_PROBLEMS + 7).map(|number| format!("x{number} = 1\n")).collect::<String>();
    let errors = errors_of(&text);
    assert_eq!(errors.problems.len(), MAX_PROBLEMS + 1);
    let shown = errors.to_string();
    assert_eq!(shown.lines().count(), MAX_PROBLEMS + 1);
    assert!(shown.ends_with("\ntest.toml: 7 more errors are not shown; correct these first"), "{shown}");
}
