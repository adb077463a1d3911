//! Text as sentences and words.

/// The most words of a sentence.
pub(super) const LIMIT: usize = 30;

/// What a passage is in its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Paragraph,
    Cell,
    Heading,
}

/// Text that belongs together. Code in it is one word that begins and ends with a backtick.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passage {
    pub(super) line: usize,
    pub(super) kind: Kind,
    pub(super) text: String,
}

/// Code as one word, which no rule looks into.
pub(super) fn code(text: &str) -> String {
    format!("`{}`", text.split_whitespace().collect::<Vec<_>>().join("_"))
}

/// The sentences of a text. A line break that the text keeps ends a sentence too.
pub(super) fn sentences(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut sentence: Vec<&str> = Vec::new();
        for word in line.split_whitespace() {
            sentence.push(word);
            if ends(word) {
                found.push(sentence.join(" "));
                sentence.clear();
            }
        }
        if !sentence.is_empty() {
            found.push(sentence.join(" "));
        }
    }
    found.retain(|sentence| count(sentence) > 0);
    found
}

/// How many words a sentence has. What has no letter or digit is no word.
pub(super) fn count(sentence: &str) -> usize {
    sentence.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).count()
}

/// True when a sentence ends with `word`.
fn ends(word: &str) -> bool {
    let word = word.trim_end_matches(['"', '\'', ')', ']', '*', '_']);
    let abbreviation = ["e.g.", "i.e.", "vs.", "..."].iter().any(|known| word.ends_with(known));
    word.ends_with(['.', '?', '!']) && !abbreviation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_at_full_stops_and_at_line_breaks() {
        let text = "It stops. Then it starts again (after 1.5 s). Does it?\n  remedy: start `a._b` by hand";
        let found = sentences(text);
        assert_eq!(
            found,
            ["It stops.", "Then it starts again (after 1.5 s).", "Does it?", "remedy: start `a._b` by hand"]
        );
        assert_eq!(sentences("e.g. this one, and so on ... here").len(), 1);
        assert!(sentences("- | ->").is_empty());
    }

    #[test]
    fn punctuation_is_no_word_and_code_is_one() {
        assert_eq!(count("a - b | c"), 3);
        assert_eq!(count(&format!("run {} now", code("snisplice flows --json"))), 3);
    }
}
