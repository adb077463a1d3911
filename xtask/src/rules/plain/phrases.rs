//! Phrases that plain words have no place for, each with what to write.

/// Words of a phrase in lower case, and what to write. `*` stands for one to three words.
const PHRASES: [(&str, &str); 62] = [
    ("of which", "begin a sentence with the noun"),
    ("of whom", "begin a sentence with the noun"),
    ("by whom", "say who does it"),
    ("what * is for", "say what it does"),
    ("what * are for", "say what they do"),
    ("those that there are", "name them"),
    ("whoever", "name who"),
    ("whomever", "name who"),
    ("nothing wants it", "write: not configured"),
    ("is not there", "write: missing, unavailable or not configured"),
    ("are not there", "write: missing, unavailable or not configured"),
    ("looked at", "write: checked, read or inspected"),
    ("without sockets", "write: offloaded"),
    ("without a socket", "write: offloaded"),
    ("leave its sockets", "write: is offloaded"),
    ("leaves its sockets", "write: is offloaded"),
    ("left its sockets", "write: was offloaded"),
    ("leave their sockets", "write: are offloaded"),
    ("leaves their sockets", "write: are offloaded"),
    ("left their sockets", "write: were offloaded"),
    ("leaving its sockets", "write: while it is offloaded"),
    ("leaving their sockets", "write: while they are offloaded"),
    ("keep its sockets", "write: is not offloaded"),
    ("keep their sockets", "write: are not offloaded"),
    ("keeps its sockets", "write: is not offloaded"),
    ("kept its sockets", "write: was not offloaded"),
    ("kept their sockets", "write: were not offloaded"),
    ("sockets again", "write: restored"),
    ("stay behind", "write: is not offloaded"),
    ("the way back", "write: restore"),
    ("promoted", "write: offloaded"),
    ("demoted", "write: restored"),
    ("parked", "write: offloaded"),
    ("the lot", "write: the offload table"),
    ("vigil", "write: liveness check"),
    ("obstacle", "write: fallback reason"),
    ("obstacles", "write: fallback reasons"),
    ("errand", "write: command"),
    ("errands", "write: commands"),
    ("obey", "write: execute"),
    ("obeys", "write: executes"),
    ("obeyed", "write: executed"),
    ("the road", "write: path or datapath"),
    ("rooms", "write: modules, or free space"),
    ("rules of the house", "write: project rules"),
    ("taken in", "write: accepted"),
    ("taking in", "write: accepting"),
    ("takes in", "write: accepts"),
    ("caught up", "write: has received everything"),
    ("carried", "write: forwarded, copied or spliced"),
    ("mend", "write: fix"),
    ("mends", "write: fixes"),
    ("mended", "write: fixed"),
    ("mending", "write: fixing"),
    ("at rest", "write: idle"),
    ("rests", "write: is idle"),
    ("rested", "write: was idle"),
    ("at the door", "name the place"),
    ("sign of life", "write: answer"),
    ("without a word", "write: without a log record, or without an answer"),
    ("for want of", "write: because ... is missing"),
    ("strangers", "write: unknown hosts, or attackers"),
];

/// The phrases in a text, as they stand there.
pub(super) fn in_text(text: &str) -> Vec<(String, &'static str)> {
    let words: Vec<String> = text.split_whitespace().map(bare).collect();
    let mut found = Vec::new();
    for at in 0..words.len() {
        let rest = words.get(at..).unwrap_or_default();
        for (phrase, instead) in &PHRASES {
            let parts: Vec<&str> = phrase.split(' ').collect();
            if let Some(length) = length(rest, &parts) {
                found.push((rest.get(..length).unwrap_or_default().join(" "), *instead));
            }
        }
    }
    found
}

/// A word in lower case without punctuation around it. Code and placeholders match nothing.
fn bare(word: &str) -> String {
    if word.contains(['`', '{']) {
        return "`".to_owned();
    }
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

/// How many of `words` match the parts of a phrase, if they do from the first on.
fn length(words: &[String], parts: &[&str]) -> Option<usize> {
    match parts.split_first() {
        None => Some(0),
        Some((&"*", rest)) => {
            (1..=3).find_map(|skipped| length(words.get(skipped..)?, rest).map(|matched| matched + skipped))
        }
        Some((part, rest)) => {
            let first = words.first().filter(|word| word == part);
            first.and_then(|_| length(words.get(1..)?, rest)).map(|matched| matched + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        in_text(text).into_iter().map(|(phrase, _)| phrase).collect()
    }

    #[test]
    fn phrases_are_found_across_case_punctuation_and_line_ends() {
        assert_eq!(found("Flows without\nsockets: 3"), ["without sockets"]);
        assert_eq!(found("What splicing is for is speed"), ["what splicing is for"]);
        assert_eq!(found("what the new limit is for, by far"), ["what the new limit is for"]);
        assert_eq!(found("(Of which, two)"), ["of which"]);
        assert_eq!(found("it was carried by hand"), ["carried"]);
    }

    #[test]
    fn code_and_ordinary_uses_of_the_words_pass() {
        for text in [
            "`flows_without_sockets` of what",
            "a lot of the rest, parking the car, a room with room for two",
            "what is left for the server",
            "the taken port is in use",
            "recommend, amend and commend",
            "only {carried} bytes",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn every_phrase_finds_itself() {
        for (phrase, _) in PHRASES {
            assert!(!found(&phrase.replace('*', "a thing")).is_empty(), "{phrase}");
        }
    }
}
