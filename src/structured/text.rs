//! The answer inside a text.

use serde_json::Value;

/// The text without the code fence around it, or as it is where no fence goes around all of it.
///
/// The first line has to open the fence and the last one to close it, with no other closing line between; an inner fence,
/// or one with text before or after it, is left unchanged. White space around a removed fence is dropped.
///
/// ```
/// use llm_batch::structured::strip_code_fence;
///
/// assert_eq!(strip_code_fence("```json\n{\"a\": 1}\n```\n"), "{\"a\": 1}");
/// assert_eq!(strip_code_fence("Run this:\n```sh\nls\n```"), "Run this:\n```sh\nls\n```");
/// assert_eq!(strip_code_fence("```\none\n```\n```\ntwo\n```"), "```\none\n```\n```\ntwo\n```");
/// ```
pub fn strip_code_fence(text: &str) -> &str {
    inside_fence(text.trim()).unwrap_or(text)
}

fn inside_fence(text: &str) -> Option<&str> {
    let ticks = text.len() - text.trim_start_matches('`').len();
    if ticks < 3 {
        return None;
    }
    let (opening, rest) = text.split_once('\n')?;
    // The word for the language has no tick in it.
    if opening.get(ticks..)?.contains('`') {
        return None;
    }
    let fence = text.get(..ticks)?;
    let closes = |line: &str| {
        let line = line.trim();
        line.starts_with(fence) && line.bytes().all(|byte| byte == b'`')
    };
    let (body, last) = rest.rsplit_once('\n').unwrap_or(("", rest));
    if !closes(last) || body.lines().any(closes) {
        return None;
    }
    Some(body.trim_end_matches('\r'))
}

/// The text without the marks that some servers put around an answer: white space of every width, byte order marks, and the thoughts
/// of a model in `<think>` before it, which servers without a reasoning parser leave there, empty ones where thinking is off.
pub(super) fn bare(text: &str) -> &str {
    let is_blank = |c: char| {
        c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}' | '\u{200c}' | '\u{200d}' | '\u{2060}')
    };
    let mut text = text.trim_matches(is_blank);
    while let Some((_, answer)) = text
        .strip_prefix("<think>")
        .and_then(|thought| thought.split_once("</think>"))
    {
        text = answer.trim_matches(is_blank);
    }
    text
}

/// The object or list in a text that holds just one, with words or a fence around it. `None` if there is none, more than one,
/// or one that is not whole.
pub(super) fn only_json(text: &str) -> Option<Value> {
    let rest = text.get(text.find(['{', '['])?..)?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
    let value = values.next()?.ok()?;
    let rest = rest.get(values.byte_offset()..)?;
    (!rest.contains(['{', '['])).then_some(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_outer_fence_is_stripped() {
        for (text, inside) in [
            ("```json\n{}\n```", "{}"),
            ("```\n{}\n```", "{}"),
            ("\n\n  ```JSON\r\n{}\r\n```  \n", "{}"),
            ("````md\n```\nx\n```\n````", "```\nx\n```"),
            ("```md\n```rust\nx\n```", "```rust\nx"),
            ("```\n```", ""),
            // What begins like one of several, was cut, or stands in a sentence.
            ("```json\n{}", "```json\n{}"),
            ("{}\n```", "{}\n```"),
            ("```{}```", "```{}```"),
            ("```a`b\n{}\n```", "```a`b\n{}\n```"),
            ("``\n{}\n``", "``\n{}\n``"),
            ("```\na\n```\nand\n```\nb\n```", "```\na\n```\nand\n```\nb\n```"),
            ("Here:\n```\n{}\n```", "Here:\n```\n{}\n```"),
            ("", ""),
            ("`", "`"),
        ] {
            assert_eq!(strip_code_fence(text), inside, "{text:?}");
        }
    }

    #[test]
    fn marks_around_an_answer_are_no_part_of_it() {
        for (text, answer) in [
            ("\u{feff}{}\n", "{}"),
            ("\u{a0}\u{200b} {} \u{2060}", "{}"),
            ("<think>\n\n</think>\n\n{}", "{}"),
            (
                "<think>a {b}</think>\n<think></think>```json\n{}\n```",
                "```json\n{}\n```",
            ),
            ("<think>cut", "<think>cut"),
            ("So: <think></think>", "So: <think></think>"),
        ] {
            assert_eq!(bare(text), answer, "{text:?}");
        }
    }

    #[test]
    fn one_value_is_recovered_and_no_more() {
        for (text, value) in [
            ("Sure: {\"a\": [1]} is it.", Some(json!({"a": [1]}))),
            ("{\"a\": 1}\n```", Some(json!({"a": 1}))),
            ("Here:\n```json\n[1, 2]\n```\nBye", Some(json!([1, 2]))),
            ("{\"a\": 1} {\"a\": 2}", None),
            ("{\"a\": 1} [", None),
            // Cut: what is inside is not the answer.
            ("{\"a\": {\"b\": 1}, \"c\":", None),
            ("the set {x} and {\"a\": 1}", None),
            ("42", None),
            ("", None),
        ] {
            assert_eq!(only_json(text), value, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in "(```|json|\\{|\\}|\\[|\\]|\"|\n|é|\\PC){0,30}") {
            proptest::prop_assert!(text.contains(strip_code_fence(&text)));
            let _ = only_json(bare(&text));
        }
    }
}
