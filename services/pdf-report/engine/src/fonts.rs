//! The fonts in the binary, and which characters they can show.

use std::collections::HashMap;

use serde_json::Value;
use typst::foundations::Bytes;
use typst::text::{Font, FontBook, is_default_ignorable};
use typst::utils::LazyHash;

/// Their licences lie beside them.
const FILES: [&[u8]; 7] = [
    include_bytes!("../fonts/Inter-Regular.otf"),
    include_bytes!("../fonts/Inter-Italic.otf"),
    include_bytes!("../fonts/Inter-Medium.otf"),
    include_bytes!("../fonts/Inter-SemiBold.otf"),
    include_bytes!("../fonts/Inter-Bold.otf"),
    include_bytes!("../fonts/DejaVuSans.ttf"),
    include_bytes!("../fonts/DroidSansFallbackFull.ttf"),
];

/// Parsed fonts and their index.
pub(crate) struct Fonts {
    pub(crate) book: LazyHash<FontBook>,
    fonts: Vec<Font>,
}

impl Fonts {
    /// Parses the embedded fonts.
    pub(crate) fn embedded() -> Self {
        let fonts: Vec<_> = FILES.into_iter().flat_map(|file| Font::iter(Bytes::new(file))).collect();
        Self { book: LazyHash::new(FontBook::from_fonts(&fonts)), fonts }
    }

    /// The font with this number in the book.
    pub(crate) fn get(&self, index: usize) -> Option<Font> {
        self.fonts.get(index).cloned()
    }

    /// Replaces, in all texts of some data, what no font can show: a customer's emoji must not cost a report. PDF/A
    /// forbids text without a glyph, so that the whole document would be refused.
    pub(crate) fn replace_missing(&self, data: &mut Value) {
        self.replace_in(data, &mut HashMap::new());
    }

    fn replace_in(&self, data: &mut Value, known: &mut HashMap<char, Option<char>>) {
        match data {
            Value::String(text) if !text.bytes().all(is_plain) => {
                *text = text.chars().filter_map(|c| *known.entry(c).or_insert_with(|| self.shown_as(c))).collect();
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.replace_in(item, known)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.replace_in(field, known)),
            _ => {}
        }
    }

    /// The character itself, or what stands for it, or nothing for one that is invisible anyway.
    fn shown_as(&self, c: char) -> Option<char> {
        let private_use = matches!(c, '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..);
        let covered = self.fonts.iter().any(|font| font.info().coverage.contains(u32::from(c)));
        if c.is_ascii() && is_plain(c as u8) {
            Some(c)
        } else if is_default_ignorable(c) {
            None
        } else if c.is_whitespace() {
            // A space that holds words together stays, all others and line breaks become one.
            Some(if matches!(c, '\u{A0}' | '\u{202F}') { c } else { ' ' })
        } else if covered && !private_use && !c.is_control() {
            Some(c)
        } else {
            Some('\u{FFFD}')
        }
    }
}

/// ASCII that needs no look at the fonts.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\n' | b'\t')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Fonts;

    fn shown(text: &str) -> String {
        let mut data = json!({ "rows": [[text]] });
        Fonts::embedded().replace_missing(&mut data);
        data["rows"][0][0].as_str().unwrap().to_owned()
    }

    #[test]
    fn every_embedded_font_can_be_read() {
        assert_eq!(Fonts::embedded().fonts.len(), super::FILES.len());
    }

    #[test]
    fn names_of_many_scripts_stay_as_they_are() {
        for name in ["O'Brien & Søn", "Łukasz Żółć", "Ελένη", "Дмитрий", "שרה", "محمد", "王小明", "さくら"]
        {
            assert_eq!(shown(name), name);
        }
    }

    #[test]
    fn what_no_font_can_show_is_replaced() {
        assert_eq!(shown("Ann 🎉 (ไทย) \u{E000}\u{7}"), "Ann \u{FFFD} (\u{FFFD}\u{FFFD}\u{FFFD}) \u{FFFD}\u{FFFD}");
    }

    #[test]
    fn what_is_invisible_is_dropped_and_odd_spaces_become_plain() {
        assert_eq!(shown("A\u{FEFF}n\u{200D}n\u{2028}B"), "Ann B");
    }
}
