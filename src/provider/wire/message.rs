//! The meaning of an error's text. The last resort: typed facts come first, and text counts by whole words only.

use std::time::{Duration, SystemTime};

use super::duration::{number, parse_wait};

/// Lower case, every run of white space one space: the form that the functions below take.
pub(super) fn normalised(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.extend(word.chars().flat_map(char::to_lowercase));
    }
    normal
}

/// Returns the text after `phrase` where it stands as whole words: `429` is not in `4290`.
fn after<'a>(text: &'a str, phrase: &str) -> Option<&'a str> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    text.match_indices(phrase).find_map(|(start, _)| {
        let (before, rest) = (&text[..start], &text[start + phrase.len()..]);
        let opens = !phrase.starts_with(is_word) || !before.ends_with(is_word);
        let closes = !phrase.ends_with(is_word) || !rest.starts_with(is_word);
        (opens && closes).then_some(rest)
    })
}

/// Returns `true` if `phrase` stands in the text as whole words.
pub(super) fn says(text: &str, phrase: &str) -> bool {
    after(text, phrase).is_some()
}

/// The wait in `try again in 26.604s`, `retry in 1m2s`, `retry after 24 seconds`.
pub(super) fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    [
        "try again in",
        "retry in",
        "retry after",
        "try again after",
        "replenished in",
    ]
    .into_iter()
    .filter_map(|phrase| after(text, phrase))
    .find_map(|rest| {
        let rest = rest.trim_start_matches([' ', ':']);
        let word = rest
            .split(' ')
            .next()?
            .trim_end_matches(['.', ',', ')', ';', '!']);
        if let Some(wait) = clock(word) {
            return Some(wait);
        }
        let Some((value, "")) = number(word) else {
            return parse_wait(word, now);
        };
        // A bare number takes its unit from the next word; without one it is seconds.
        let unit = rest[word.len()..].trim_start();
        let unit = unit
            .split(|c: char| !c.is_alphabetic())
            .next()
            .unwrap_or_default();
        let factor = match unit {
            "ms" | "millisecond" | "milliseconds" => 0.001,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3_600.0,
            "day" | "days" => 86_400.0,
            _ => 1.0,
        };
        Duration::try_from_secs_f64(value * factor).ok()
    })
}

/// The wait in `02:13:05`.
fn clock(word: &str) -> Option<Duration> {
    let mut parts = word.split(':').map(|part| part.parse::<u32>().ok());
    let (Some(hours), Some(minutes), Some(seconds), None) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next())
    else {
        return None;
    };
    Some(Duration::from_secs(
        u64::from(hours) * 3_600 + u64::from(minutes) * 60 + u64::from(seconds),
    ))
}

/// Returns `true` if the request alone asks for more than the limit allows: `Limit 30000, Requested 31538`.
pub(super) fn asks_more_than_the_limit(text: &str) -> bool {
    let amount = |phrase| {
        let rest = after(text, phrase)?.trim_start_matches([' ', ':', '~']);
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        // A number with separators is left alone rather than misread.
        let grouped = rest[digits..]
            .strip_prefix(',')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if grouped {
            None
        } else {
            rest[..digits].parse::<u64>().ok()
        }
    };
    matches!((amount("limit"), amount("requested")), (Some(limit), Some(requested)) if requested > limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert!(says("http 429 from upstream", "429"));
        assert!(!says("request 4290 failed", "429"));
        assert!(!says("error 1429", "429"));
        assert!(says("rate limit.", "rate limit"));
        assert!(!says("separate limits", "rate limit"));
    }

    #[test]
    fn hints_are_read() {
        let wait = |text: &str| super::wait(&normalised(text), SystemTime::UNIX_EPOCH);
        let ms = Duration::from_millis;
        for (text, expected) in [
            (
                "Limit 3, Used 3. Please try again in 26.604s. Visit x",
                ms(26_604),
            ),
            ("Please try again in 174ms.", ms(174)),
            ("please try again in 7m12s, or", ms(432_000)),
            ("Please retry in 48.5s.", ms(48_500)),
            ("Please retry after 24 seconds.", ms(24_000)),
            ("Try again in 2 minutes", ms(120_000)),
            ("try again in 5", ms(5_000)),
            ("Quota will be replenished in 02:13:05.", ms(7_985_000)),
        ] {
            assert_eq!(wait(text), Some(expected), "{text}");
        }
        for text in [
            "try again in a while",
            "try again later",
            "Please retry shortly",
            "retry in -3s",
        ] {
            assert_eq!(wait(text), None, "{text}");
        }
    }

    #[test]
    fn a_request_above_the_limit_is_seen() {
        assert!(asks_more_than_the_limit("limit 30000, requested 31538."));
        assert!(asks_more_than_the_limit("limit 7000, used 0, requested ~12903"));
        assert!(!asks_more_than_the_limit(
            "limit 30000, used 29000, requested 2000."
        ));
        assert!(!asks_more_than_the_limit("limit 30,000, requested 2000"));
        assert!(!asks_more_than_the_limit("limit, requested"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(try again in |limit |requested |\\PC){0,30}") {
            let text = normalised(&text);
            let _ = (super::wait(&text, SystemTime::UNIX_EPOCH), asks_more_than_the_limit(&text));
        }
    }
}
