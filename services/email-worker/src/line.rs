//! Text that stays on one line, whoever wrote it.

use std::fmt;

/// Longer text is cut: it stands in subjects, file names and logs.
const LONGEST: usize = 200;
/// A sentence stands in the text alone, and may name two products.
const LONGEST_SENTENCE: usize = 1000;

/// One line of at most 200 characters: no control character, no line separator, nothing that turns the direction of
/// writing around (a file name could then show another ending than it has). What mails say of foreign origin goes
/// through here, so that nothing can begin a header, or a paragraph, of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(String);

impl Line {
    /// `text`, with one space for each run of white space and control characters.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self::cut(text, LONGEST)
    }

    fn cut(text: &str, longest: usize) -> Self {
        let shown = text.chars().filter(|character| !turns_direction(*character));
        let spaced: String = shown.map(|character| if breaks(character) { ' ' } else { character }).collect();
        let line = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(longest) {
            None => Self(line),
            Some(_) => Self(line.chars().take(longest - 1).chain(['…']).collect()),
        }
    }

    /// A sentence, which may be longer: of at most 1000 characters.
    #[must_use]
    pub fn sentence(text: &str) -> Self {
        Self::cut(text, LONGEST_SENTENCE)
    }

    /// The name of a file: as [`Line::new`], and in no folder.
    #[must_use]
    pub fn file_name(text: &str) -> Self {
        let Self(line) = Self::new(&text.replace(['/', '\\'], "-"));
        Self(if line.is_empty() { "file".to_owned() } else { line })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn breaks(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// Embeddings, overrides and isolates of the Unicode bidirectional algorithm (UAX #9).
fn turns_direction(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn whatever_breaks_a_line_becomes_a_space() {
        assert_eq!(
            Line::new(" Sales\r\nBcc: eve@evil.example\t\0x\u{2028}y\u{85}z ").as_str(),
            "Sales Bcc: eve@evil.example x y z"
        );
    }

    #[test]
    fn a_long_text_is_cut_to_200_characters() {
        assert_eq!(Line::new(&"ä".repeat(200)).as_str(), "ä".repeat(200));
        assert_eq!(Line::new(&"ä".repeat(201)).as_str(), format!("{}…", "ä".repeat(199)));
        assert_eq!(Line::sentence(&"ä".repeat(1001)).as_str(), format!("{}…", "ä".repeat(999)));
    }

    #[test]
    fn a_file_name_is_in_no_folder_and_shows_its_own_ending() {
        assert_eq!(Line::file_name("../../etc/passwd\r\n").as_str(), "..-..-etc-passwd");
        assert_eq!(Line::file_name("report\u{202e}fdp.exe").as_str(), "reportfdp.exe");
        assert_eq!(Line::file_name("\r\n").as_str(), "file");
    }
}
