//! The one grammar for waits in headers, bodies and messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads a wait in any form that a provider was seen to send, as the time from `now`:
///
/// - `6m0s`, `1m`, `8.64s`, `17ms`, `1h2m3.5s`: hours, minutes, seconds, milliseconds, in this order;
/// - `30`, `0.5`: seconds;
/// - ten digits or more: seconds since 1970, and from thirteen on milliseconds;
/// - a date as in HTTP or RFC 3339.
///
/// A moment in the past is zero. Anything else (`-1`, `NaN`, an empty or broken text) is none.
pub(crate) fn parse_wait(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        let date = httpdate::parse_http_date(text).ok()?;
        return Some(date.duration_since(now).unwrap_or_default());
    }
    if let Ok(date) = humantime::parse_rfc3339_weak(text) {
        return Some(date.duration_since(now).unwrap_or_default());
    }
    let (number, unit) = number(text)?;
    if !unit.is_empty() {
        return parse_units(text);
    }
    let whole_digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let span = match whole_digits {
        0..10 => return Duration::try_from_secs_f64(number).ok(),
        10..13 => Duration::try_from_secs_f64(number),
        _ => Duration::try_from_secs_f64(number / 1_000.0),
    };
    let moment = UNIX_EPOCH.checked_add(span.ok()?)?;
    Some(moment.duration_since(now).unwrap_or_default())
}

/// `Nh Nm N(.N)s N(.N)ms`, each at most once, in this order, and nothing else.
fn parse_units(text: &str) -> Option<Duration> {
    // Milliseconds come before minutes here, or `1ms` would read as a minute and a rest.
    const UNITS: [(&str, u8, f64); 4] = [("ms", 3, 0.001), ("h", 0, 3_600.0), ("m", 1, 60.0), ("s", 2, 1.0)];
    let mut rest = text;
    let mut next_rank = 0;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, after) = number(rest)?;
        let (name, rank, factor) = UNITS.into_iter().find(|(name, ..)| after.starts_with(name))?;
        if rank < next_rank {
            return None;
        }
        next_rank = rank + 1;
        seconds += number * factor;
        rest = &after[name.len()..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// The decimal number at the start and what follows it.
pub(super) fn number(text: &str) -> Option<(f64, &str)> {
    let whole = text.bytes().take_while(u8::is_ascii_digit).count();
    if whole == 0 {
        return None;
    }
    let mut end = whole;
    if let Some(fraction) = text[whole..].strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            end += 1 + digits;
        }
    }
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Option<Duration> {
        // 2026-11-21T00:00:00Z
        parse_wait(text, UNIX_EPOCH + Duration::from_secs(1_795_219_200))
    }

    #[test]
    fn every_form_seen_is_read() {
        let ms = Duration::from_millis;
        for (text, wait) in [
            ("1m", ms(60_000)),
            ("1ms", ms(1)),
            ("6m0s", ms(360_000)),
            ("8.64s", ms(8_640)),
            ("1m2.3s", ms(62_300)),
            ("17ms", ms(17)),
            ("900ms", ms(900)),
            ("1h2m3s4ms", ms(3_723_004)),
            ("0s", ms(0)),
            ("30", ms(30_000)),
            (" 0.5 ", ms(500)),
            ("2026-11-21T00:00:30Z", ms(30_000)),
            ("2026-11-21T00:00:01.5Z", ms(1_500)),
            ("Sat, 21 Nov 2026 00:01:00 GMT", ms(60_000)),
            ("1795219260", ms(60_000)),
            ("1795219200250", ms(250)),
            ("1795219100", ms(0)),
            ("Sat, 21 Nov 2020 00:01:00 GMT", ms(0)),
        ] {
            assert_eq!(parse(text), Some(wait), "{text}");
        }
        assert_eq!(parse("34.074824224s"), Some(Duration::new(34, 74_824_224)));
    }

    #[test]
    fn nonsense_is_none() {
        for text in [
            "",
            "-1",
            "-1s",
            "NaN",
            "nan",
            "inf",
            "Infinity",
            "soon",
            "1x",
            "s",
            "m",
            "1s1m",
            "1m1m",
            "1 m",
            "1e3",
            "0x10",
            "1.s2",
            "+5",
            "1,5",
            "٣s",
            "1ms1s",
            "2026-13-45T99:00:00Z",
            "1.5.5",
            ".5",
            "99999999999999999999999999999999999999999999999999999h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn near_misses_never_panic(text in "[0-9.hmsTZ:+ -]{0,30}") {
            let _ = parse(&text);
        }

        #[test]
        fn whole_units_add_up(h in 0u64..100, m in 0u64..100, s in 0u64..100, ms in 0u64..1000) {
            let text = format!("{h}h{m}m{s}s{ms}ms");
            let wait = Duration::from_millis(((h * 60 + m) * 60 + s) * 1_000 + ms);
            let read = parse(&text).unwrap();
            proptest::prop_assert!(read.abs_diff(wait) < Duration::from_micros(1));
        }
    }
}
