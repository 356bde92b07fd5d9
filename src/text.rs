//! Text about a failure that comes from outside, made safe to show.

use crate::sys;
use std::fmt;

/// Printable characters, as many as the wire can carry.
///
/// They are on the heap, so that an error without a text is small. If there is no memory, the text is empty.
#[derive(Default, PartialEq, Eq)]
pub struct Text {
    words: Option<Box<Words>>,
}

/// As [`Text`], without the heap: for thread-local memory, which should need no destructor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Words {
    bytes: [u8; Text::ROOM],
    length: u8,
}

impl Text {
    /// The most bytes of a text.
    pub const ROOM: usize = 255;

    /// These bytes as text, cut at a character's boundary if they are too long. Everything that could confuse a
    /// terminal or a log becomes a question mark: control characters, characters that have no glyph or
    /// change the direction or the line, and bytes that are not UTF-8.
    #[must_use]
    pub fn new(words: &[u8]) -> Self {
        Words::new(words).into()
    }

    /// A value as it is displayed, cut if it is too long.
    #[must_use]
    pub fn of(value: &impl fmt::Display) -> Self {
        let mut text = Words::EMPTY;
        // It fails where it is cut.
        let _ = fmt::write(&mut text, format_args!("{value}"));
        text.into()
    }

    /// As a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes =
            self.words.as_ref().map_or(&[][..], |words| &words.bytes[..words.length.into()]);
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl From<Words> for Text {
    fn from(words: Words) -> Self {
        Text { words: if words.length == 0 { None } else { sys::boxed(words) } }
    }
}

impl Clone for Text {
    fn clone(&self) -> Self {
        self.words.as_ref().map_or(Text { words: None }, |words| (**words).into())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl Words {
    const EMPTY: Words = Words { bytes: [0; Text::ROOM], length: 0 };

    /// As [`Text::new`].
    #[must_use]
    pub fn new(words: &[u8]) -> Self {
        let mut text = Words::EMPTY;
        for chunk in words.utf8_chunks() {
            let unreadable = chunk.invalid().iter().map(|_| '?');
            let readable =
                chunk.valid().chars().map(|given| if shows(given) { given } else { '?' });
            if !readable.chain(unreadable).all(|character| text.push(character)) {
                break;
            }
        }
        text
    }

    /// Adds a character. Returns whether there was room for it.
    fn push(&mut self, character: char) -> bool {
        let start = usize::from(self.length);
        let end = start + character.len_utf8();
        let Some(place) = self.bytes.get_mut(start..end) else { return false };
        character.encode_utf8(place);
        self.length = end as u8;
        true
    }
}

impl fmt::Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut shown = text.chars().map(|given| if shows(given) { given } else { '?' });
        if shown.all(|character| self.push(character)) { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Whether a character is only a glyph in a line.
fn shows(character: char) -> bool {
    !character.is_control() && !is_invisible(character)
}

/// Whether a character has no glyph, changes the direction of others or separates lines: U+2028 and U+2029, and those
/// with the property Default_Ignorable_Code_Point of Unicode.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_text_is_kept_but_what_could_confuse_a_terminal() {
        let text = |words: &[u8]| Text::new(words).as_str().to_owned();
        assert_eq!(text(&[b'x'; 255]), "x".repeat(255));
        assert_eq!(text(&[b'x'; 300]), "x".repeat(255));
        // A character that does not fit is left out as a whole.
        assert_eq!(text(&[&[b'x'; 254], "\u{e9}!".as_bytes()].concat()), "x".repeat(254));
        assert_eq!(
            text("disk: full: sp\u{e9}cial \u{65e5}".as_bytes()),
            "disk: full: sp\u{e9}cial \u{65e5}"
        );
        assert_eq!(
            text("a\u{9b}2Jb\u{85}c\u{7f}d\0e\u{202e}f\u{2028}g".as_bytes()),
            "a?2Jb?c?d?e?f?g"
        );
        assert_eq!(
            text("no\u{200b}thing\u{feff} \u{2060}\u{ad}\u{e0041}".as_bytes()),
            "no?thing? ???"
        );
        assert_eq!(text(b"\xffa\xc3(b\xe2\x82"), "?a?(b??");
    }

    #[test]
    fn a_value_is_cut_where_a_character_ends() {
        assert_eq!(Text::of(&"a\u{9b}b").as_str(), "a?b");
        let long = format!("{}\u{e9}", "x".repeat(254));
        assert_eq!(Text::of(&long).as_str(), "x".repeat(254));
        assert_eq!(Text::of(&"").clone().as_str(), "");
        assert_eq!(Text::new(b"kept").clone().as_str(), "kept");
    }
}
