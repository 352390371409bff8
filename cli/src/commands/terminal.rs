//! What is written to a terminal: progress, and text that others wrote.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on standard error, in the words of `template`; hidden by itself where that is no terminal.
pub(super) fn progress(template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// What would move a terminal's cursor or turn its text around is written as an escape; JSON stays the same JSON.
pub(super) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let hidden = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if hidden || (character.is_control() && character != '\n') {
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_moves_or_turns_text_is_escaped() {
        assert_eq!(escaped("a b\u{e9}\n"), "a b\u{e9}\n", "the rest stays");
        for letter in "\u{7}\u{1b}\u{7f}\u{85}\u{9b}\u{200b}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}\u{feff}".chars() {
            assert_eq!(escaped(&letter.to_string()), format!("\\u{:04x}", u32::from(letter)));
        }
    }
}
