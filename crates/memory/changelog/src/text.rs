//! Untrusted text made fit for one line of a page.
//!
//! Invariant: what comes out has no control character, no terminal escape, no character that turns the direction of
//! writing, and no more characters than allowed.

use std::iter::Peekable;
use std::str::Chars;

const ESCAPE: char = '\u{1b}';
const BELL: char = '\u{7}';

/// Returns text on one line with at most `limit` characters, the last of them an ellipsis where something was cut.
pub(crate) fn clean(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let mut count = 0;
    let mut space = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ESCAPE => escape(&mut chars),
            '\u{9b}' => control_sequence(&mut chars),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => control_string(&mut chars),
            _ if c.is_whitespace() => space = count > 0,
            _ if is_hidden(c) => {}
            _ => {
                if count + 1 + usize::from(space) > limit {
                    return cut(out, limit);
                }
                if space {
                    out.push(' ');
                }
                out.push(c);
                count += 1 + usize::from(space);
                space = false;
            }
        }
    }
    out
}

fn cut(mut out: String, limit: usize) -> String {
    if out.chars().count() >= limit {
        out.pop();
    }
    out.truncate(out.trim_end().len());
    if limit > 0 {
        out.push('…');
    }
    out
}

fn escape(chars: &mut Peekable<Chars<'_>>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            control_sequence(chars);
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            chars.next();
            control_string(chars);
        }
        _ => {
            while chars.next_if(|c| matches!(c, ' '..='/')).is_some() {}
            chars.next_if(|c| matches!(c, '0'..='~'));
        }
    }
}

fn control_sequence(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    chars.next_if(|c| matches!(c, '@'..='~'));
}

/// Passes over a string to a terminal; one that does not end takes no more than its line.
fn control_string(chars: &mut Peekable<Chars<'_>>) {
    while let Some(c) = chars.next_if(|c| *c != '\n') {
        match c {
            BELL | '\u{9c}' => return,
            ESCAPE => {
                chars.next_if(|c| *c == '\\');
                return;
            }
            _ => {}
        }
    }
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, limit: usize, expected: &str) {
        assert_eq!(clean(text, limit), expected, "{text:?}");
    }

    #[test]
    fn text_becomes_one_line() {
        check("  go\n\n on\t now \r\n", 80, "go on now");
        check("a\u{2028}b\u{85}c", 80, "a b c");
        check("", 80, "");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        check("abcdef", 6, "abcdef");
        check("abcdefg", 6, "abcde…");
        check("ab cdefg", 4, "ab…");
        check("éèêëē", 3, "éè…");
        check("abc", 0, "");
        check("abc   \n ", 3, "abc");
    }

    #[test]
    fn escapes_and_controls_go_with_what_they_govern() {
        check("\u{1b}[31mred\u{1b}[0m", 80, "red");
        check("\u{1b}]0;title\u{7}after", 80, "after");
        check("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", 80, "link");
        check("\u{1b}]0;never ends\nnext", 80, "next");
        check("\u{9b}2Jgone", 80, "gone");
        check("a\u{1b}(Bb\u{1b}cc", 80, "abc");
        check("a\u{0}b\u{8}c\u{7f}", 80, "abc");
        check("\u{1b}", 80, "");
    }

    #[test]
    fn characters_that_turn_or_hide_text_are_left_out() {
        check("a\u{202e}b\u{200b}c\u{feff}d\u{e0041}", 80, "abcd");
    }

    proptest! {
        #[test]
        fn what_comes_out_is_safe_and_bounded(text in any::<String>(), limit in 0_usize..40) {
            let out = clean(&text, limit);
            prop_assert!(out.chars().count() <= limit);
            prop_assert!(!out.chars().any(|c| c.is_control() || is_hidden(c)));
            prop_assert_eq!(clean(&out, limit), out);
        }
    }
}
