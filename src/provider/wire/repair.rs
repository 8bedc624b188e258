//! Repairs invalid JSON that servers send, so that a paid answer is not lost.
//!
//! Repaired are: invalid UTF-8, half of a surrogate pair, an unescaped control character in a string, `NaN`, `Infinity`, and a number
//! out of range. Only replies that could not be parsed are repaired; a stream is read as UTF-8 before.

use serde_json::Value;

/// The first of the 2,048 characters that stand for the halves of surrogate pairs until the whole text is there: the end of the
/// last plane, which is for private use.
const FIRST_HALF: u32 = 0x10_F000;
const FIRST_SURROGATE: u32 = 0xD800;
const HALVES: u32 = 0x400;

/// The repaired JSON; `None` if it was valid, or has other faults. Half of a surrogate pair is kept as a placeholder for [`joined`].
pub(crate) fn repaired(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let valid = valid(&text);
    (valid.as_bytes() != body && serde_json::from_str::<Value>(&valid).is_ok()).then_some(valid)
}

fn valid(text: &str) -> String {
    let mut valid = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '"' => push_string(rest, &mut valid),
            '-' | '0'..='9' | 'a'..='z' | 'A'..='Z' => push_word(rest, &mut valid),
            other => {
                valid.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    valid
}

/// A number, or a name outside of a text.
fn push_word(rest: &str, valid: &mut String) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.' | '_');
    let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    let word = &rest[..length];
    let is_number = word.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let is_out_of_range = || word.parse().is_ok_and(|number: f64| !number.is_finite());
    let names_no_number = matches!(word, "NaN" | "Infinity" | "inf" | "nan");
    valid.push_str(if names_no_number || (is_number && is_out_of_range()) {
        "null"
    } else {
        word
    });
    length
}

/// A text with its quotes.
fn push_string(text: &str, valid: &mut String) -> usize {
    valid.push('"');
    let mut at = 1;
    while let Some(next) = text[at..].chars().next() {
        at += next.len_utf8();
        match next {
            '"' => {
                valid.push('"');
                return at;
            }
            '\\' => at += push_escape(&text[at..], valid),
            control if control < ' ' => valid.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => valid.push(other),
        }
    }
    at
}

/// The rest of an escape after its backslash.
fn push_escape(rest: &str, valid: &mut String) -> usize {
    if let Some(unit) = unit(rest) {
        let low = rest[5..].strip_prefix('\\').and_then(self::unit);
        let is_high = |unit: u32| (FIRST_SURROGATE..FIRST_SURROGATE + HALVES).contains(&unit);
        let is_low = |unit: u32| (FIRST_SURROGATE + HALVES..FIRST_SURROGATE + 2 * HALVES).contains(&unit);
        if is_high(unit) && low.is_some_and(is_low) {
            valid.push('\\');
            valid.push_str(&rest[..11]);
            return 11;
        }
        if is_high(unit) || is_low(unit) {
            valid.extend(char::from_u32(FIRST_HALF + (unit - FIRST_SURROGATE)));
            return 5;
        }
    }
    valid.push('\\');
    let Some(next) = rest.chars().next() else { return 0 };
    valid.push(next);
    next.len_utf8()
}

/// The UTF-16 code unit of an escape: the letter `u` and four hexadecimal digits.
fn unit(escape: &str) -> Option<u32> {
    let digits = escape.strip_prefix('u')?.get(..4)?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// Joins the halves of surrogate pairs that stand side by side; one alone becomes the replacement character.
pub(crate) fn joined(text: &str) -> String {
    let half = |c: char| {
        let half = u32::from(c).checked_sub(FIRST_HALF)?;
        (half < 2 * HALVES).then_some(half)
    };
    let mut joined = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let Some(first) = half(character) else {
            joined.push(character);
            continue;
        };
        let second = characters.peek().copied().and_then(half);
        let pair = second
            .filter(|second| first < HALVES && *second >= HALVES)
            .and_then(|second| char::from_u32(0x1_0000 + (first << 10) + (second - HALVES)));
        if pair.is_some() {
            characters.next();
        }
        joined.push(pair.unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    joined
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(body: impl AsRef<[u8]>) -> Option<Value> {
        let body = repaired(body.as_ref())?;
        Some(serde_json::from_str(&joined(&body)).unwrap())
    }

    #[test]
    fn what_is_not_needed_costs_no_answer() {
        for (body, expected) in [
            (
                r#"{"a": NaN, "b": [-Infinity, Infinity], "c": "NaN"}"#,
                r#"{"a": null, "b": [null, null], "c": "NaN"}"#,
            ),
            (r#"{"a": 1e999, "b": 1e3}"#, r#"{"a": null, "b": 1e3}"#),
            ("{\"a\": \"one\ntwo\t\"}", r#"{"a": "one\ntwo\t"}"#),
            (
                r#"{"a": "caf\ud83d", "b": "\ude00\\u"}"#,
                "{\"a\": \"caf\u{fffd}\", \"b\": \"\u{fffd}\\\\u\"}",
            ),
            (
                r#"{"a": "\ud83d\ude00 \ud83d"}"#,
                "{\"a\": \"\u{1f600} \u{fffd}\"}",
            ),
        ] {
            assert_eq!(
                read(body),
                Some(serde_json::from_str(expected).unwrap()),
                "{body}"
            );
        }
        assert_eq!(
            read(b"{\"a\": \"\xff\"}"),
            Some(serde_json::json!({ "a": "\u{fffd}" }))
        );
    }

    #[test]
    fn other_faults_stay() {
        for body in [
            r#"{"a": 1} }x"#,
            r#"{"a": 2024-01-01}"#,
            r#"{"a": "cut"#,
            "{'a': 1}",
            "{\"a\": NaN",
            "<html>",
            "",
            r#"{"a": 1}"#,
        ] {
            assert_eq!(read(body), None, "{body}");
        }
    }

    #[test]
    fn halves_are_joined_wherever_they_were_cut() {
        let (first, second) = (
            repaired(br#""a \ud83d""#).unwrap(),
            repaired(br#""\ude00 b""#).unwrap(),
        );
        let text = format!("{}{}", first.trim_matches('"'), second.trim_matches('"'));
        assert_eq!(joined(&text), "a \u{1f600} b");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in r#"(\\PC|\\u[dD89a-f]{0,4}|["\\{}:,]|NaN|1e|\n){0,40}"#, bytes: Vec<u8>) {
            let _ = (read(&body), repaired(&bytes));
        }

        #[test]
        fn what_is_valid_is_left_alone(text: String, number: f64) {
            let body = serde_json::json!({ "a": text, "b": number }).to_string();
            proptest::prop_assert_eq!(repaired(body.as_bytes()), None);
        }
    }
}
