//! No text panics, and no text takes long.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::super::DEFAULT;
use super::super::source::MAX_BYTES;
use super::parse;

/// Parses, and checks what holds for every error.
fn parse_any(text: &str) -> bool {
    match parse(text, "test.toml") {
        Ok(_) => true,
        Err(errors) => {
            assert!(!errors.problems.is_empty());
            let lines = text.split('\n').count();
            for error in errors.into_problems() {
                let (line, column) = (error.line.unwrap_or(1), error.column.unwrap_or(1));
                assert!((1..=lines).contains(&line) && column >= 1, "{error}");
                let length = text.split('\n').nth(line - 1).map_or(0, |line| line.chars().count());
                assert!(column <= length + 1, "{error}");
                assert!(error.message.contains("; ") && !error.message.contains(char::is_control), "{error}");
            }
            false
        }
    }
}

/// Pieces from which a text is likely to be almost a configuration.
const PIECES: [&str; 52] = [
    "; x\n",
    "// x\n",
    "listen:\n",
    "server { listen 1; }\n",
    "bind *:443\n",
    "name = “a”\n",
    "name = web\n",
    "address = ${X}\n",
    "socket = \"C:\\x\"\n",
    "hello = '1.5d'\n",
    "tcp_memory = '99999999999999999999.5GB'\n",
    "default = true;\n",
    "[[listen]]\n",
    "[[route]]\n",
    "[[upstream]]\n",
    "[admin]\n",
    "[timeouts]\n",
    "name = 'a'\n",
    "name = 'b'\n",
    "address = '[::]:443'\n",
    "address = ['0.0.0.0:443', 'x']\n",
    "to = 'a'\n",
    "to = 'b'\n",
    "sni = '*.a'\n",
    "sni = ['**', 'a*', '']\n",
    "source = '10.0.0.0/8'\n",
    "source = ['::/0', 1]\n",
    "default = true\n",
    "default = 1\n",
    "servers = '127.0.0.1:443'\n",
    "servers = ['a:1', 'localhost:443', '']\n",
    "datapath = 'packet'\n",
    "datapath = 'copy'\n",
    "hold = '0s'\n",
    "hold = 1\n",
    "socket = ''\n",
    "http = ''\n",
    "http = '127.0.0.1:443'\n",
    "hello = '1h'\n",
    "drain = 'é'\n",
    "listen = 1\n",
    "[listen]\n",
    "[[admin]]\n",
    "name.a.b = 1\n",
    "x = {}\n",
    "é = 1\n",
    "'",
    "\"",
    "\n",
    "[",
    "\u{feff}",
    "= 2020-01-01\n",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        parse_any(&text);
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        parse_any(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_mix_of_known_pieces_is_answered(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40)) {
        parse_any(&pieces.concat());
    }

    #[test]
    fn a_damaged_default_is_answered(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "\\PC{0,4}"), 1..8),
    ) {
        let mut text: Vec<char> = DEFAULT.chars().collect();
        for (at, removed, put) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, put.chars());
        }
        parse_any(&text.into_iter().collect::<String>());
    }

    #[test]
    fn a_cut_default_is_answered(end in any::<prop::sample::Index>()) {
        let text: String = DEFAULT.chars().take(end.index(DEFAULT.len())).collect();
        parse_any(&text);
    }
}

#[test]
fn the_whole_default_is_good() {
    assert!(parse_any(DEFAULT));
}

/// As many entries as a file can hold, each wrong or in conflict. Here a quadratic step would not end.
#[test]
fn a_full_file_ends() {
    let fill = |head: &str, entry: &dyn Fn(usize, &mut String)| {
        let mut text = head.to_owned();
        let mut number = 0;
        while text.len() < MAX_BYTES - 400 {
            entry(number, &mut text);
            number += 1;
        }
        text
    };
    let name = |number: usize| format!("{number:a>60}");
    let base = "[[listen]]\nname = 'l'\naddress = '[::]:443'\n";
    let texts = [
        fill(base, &|n, text| {
            let (route, upstream) = (name(n), name(n + 1_000_000));
            let _ = write!(text, "[[route]]\nname='{route}'\ndefault=true\nto='b{route}'\n");
            let _ = writeln!(text, "[[upstream]]\nname='{upstream}'\nservers='a:1'");
        }),
        fill(base, &|n, text| {
            let _ = write!(text, "[[route]]\nname='r{n}'\nsni=['a.b']\nsource=['10.0.0.0/8']\nto='u'\n");
        }),
        fill(base, &|n, text| {
            let _ =
                write!(text, "[[listen]]\nname='{n}'\naddress=['127.0.0.1:443','0.0.0.0:{}']\n", n % 65536);
        }),
        fill("[[upstream]]\nname='u'\nservers=[", &|_, text| text.push_str("'127.0.0.1:443',"))
            + "]\n"
            + base,
        fill("[[upstream]]\nname='u'\nservers=[", &|_, text| text.push_str("'10.0.0.1:443',"))
            + "]\n[[listen]]\nname='l'\naddress='[::]:443'\nto='x'\n",
        "[listen]\n".repeat(MAX_BYTES / 9),
        "[x]\n".repeat(MAX_BYTES / 4 - 3) + "a=1\nb=2\na=3",
        "[admin]\n".to_owned() + &"a=1\n".repeat(MAX_BYTES / 4 - 2),
        "“".repeat(MAX_BYTES / 3),
        "a ".repeat(MAX_BYTES / 2),
        "a=".to_owned() + &"web ".repeat(MAX_BYTES / 4 - 2),
        format!("a=\"{}", "\\".repeat(MAX_BYTES - 4)),
        // One long line, and every second place in a message is at its end.
        fill("[[listen]]\nname='a'\naddress=[", &|n, text| match text.len() {
            ..500_000 => text.push_str("'192.0.2.1:1',"),
            _ => {
                let _ = write!(text, "'[::]:{}','0.0.0.0:{0}',", n % 20_000 + 1);
            }
        }) + "]\n",
        fill("[admin]\n", &|n, text| {
            let _ = writeln!(text, "k{n}=1");
        }),
        fill(&format!("{base}[[route]]\nname='r'\nto='u'\nsource=["), &|_, text| {
            text.push_str("'10.0.0.0/8',");
        }) + "]\n",
        "a=".to_owned() + &"[".repeat(MAX_BYTES - 2),
        format!("[{}a]\n", "a.".repeat(MAX_BYTES / 2 - 4)),
    ];
    for text in texts {
        assert!(text.len() <= MAX_BYTES);
        let errors = parse(&text, "test.toml").unwrap_err();
        assert!(errors.to_string().lines().all(|line| line.len() < 2000));
    }
}

/// Tables are dropped by recursion. The parser alone would let these be 6000 deep.
#[test]
fn a_deep_file_fits_a_small_stack() {
    let key = vec!["a"; 78].join(".");
    let deep = move |braces: usize| {
        format!("[{key}]\n{}{key}=1{}\n", format!("{key}={{").repeat(braces), "}".repeat(braces))
    };
    let answers = move || [4, 78].map(|braces| parse(&deep(braces), "test.toml").unwrap_err().to_string());
    let thread = std::thread::Builder::new().stack_size(512 * 1024).spawn(answers).unwrap();
    let [fits, too_deep] = thread.join().unwrap();
    assert!(fits.contains("test.toml:1:2: unknown section \"a\"; "), "{fits}");
    assert_eq!(
        too_deep,
        "test.toml:2:785: tables in braces are nested more than 4 deep; write them as sections, such as \
         [[listen]], with their keys below"
    );
}
