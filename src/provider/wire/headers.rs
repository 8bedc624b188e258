//! The waits and quotas in reply headers.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

use super::duration::parse_wait;
use crate::error::{QuotaWindow, ReportedQuota};

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The server's clock where it reported the time, so that dates do not depend on ours being right.
pub(crate) fn server_time(headers: &HeaderMap) -> SystemTime {
    text(headers, "date")
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .unwrap_or_else(SystemTime::now)
}

/// The wait that the reply asks for in a header. Only for failures: some providers send `retry-after` on successes.
///
/// A zero, a past date and nonsense are none: the caller's own backoff is better than no wait.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let milliseconds = || {
        let number: f64 = text(headers, "retry-after-ms")?.trim().parse().ok()?;
        Duration::try_from_secs_f64(number / 1_000.0).ok()
    };
    let other = || parse_wait(text(headers, "retry-after")?, server_time(headers));
    let positive = |wait: &Duration| !wait.is_zero();
    milliseconds()
        .filter(positive)
        .or_else(|| other().filter(positive))
}

/// The provider's own word on whether a repeat makes sense.
pub(super) fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match text(headers, "x-should-retry")?.trim() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// The headers of one window. The first name that a reply holds counts.
struct Names {
    limit: &'static [&'static str],
    remaining: &'static [&'static str],
    reset: &'static [&'static str],
}

const REQUESTS: Names = Names {
    limit: &[
        "x-ratelimit-limit-requests",
        "anthropic-ratelimit-requests-limit",
        "x-ratelimit-limit-req-minute",
        "x-ratelimit-limit",
        "ratelimit-limit",
    ],
    remaining: &[
        "x-ratelimit-remaining-requests",
        "anthropic-ratelimit-requests-remaining",
        "x-ratelimit-remaining-req-minute",
        "x-ratelimit-remaining",
        "ratelimit-remaining",
    ],
    reset: &[
        "x-ratelimit-reset-requests",
        "anthropic-ratelimit-requests-reset",
        "x-ratelimit-reset",
        "ratelimit-reset",
    ],
};

const TOKENS: Names = Names {
    limit: &[
        "x-ratelimit-limit-tokens",
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-input-tokens-limit",
        "x-ratelimit-limit-tokens-minute",
        "ratelimitbysize-limit",
    ],
    remaining: &[
        "x-ratelimit-remaining-tokens",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-input-tokens-remaining",
        "x-ratelimit-remaining-tokens-minute",
        "ratelimitbysize-remaining",
    ],
    reset: &[
        "x-ratelimit-reset-tokens",
        "anthropic-ratelimit-tokens-reset",
        "anthropic-ratelimit-input-tokens-reset",
        "ratelimitbysize-reset",
    ],
};

/// Anthropic's windows for tokens, which all have to have room for a call.
const ANTHROPIC_TOKENS: [Names; 3] = [
    Names {
        limit: &["anthropic-ratelimit-tokens-limit"],
        remaining: &["anthropic-ratelimit-tokens-remaining"],
        reset: &["anthropic-ratelimit-tokens-reset"],
    },
    Names {
        limit: &["anthropic-ratelimit-input-tokens-limit"],
        remaining: &["anthropic-ratelimit-input-tokens-remaining"],
        reset: &["anthropic-ratelimit-input-tokens-reset"],
    },
    Names {
        limit: &["anthropic-ratelimit-output-tokens-limit"],
        remaining: &["anthropic-ratelimit-output-tokens-remaining"],
        reset: &["anthropic-ratelimit-output-tokens-reset"],
    },
];

/// Returns the quotas that the reply reports; none if it says nothing usable.
pub(crate) fn reported_quota(headers: &HeaderMap) -> Option<ReportedQuota> {
    // One look at the names is cheaper than asking for each of the many below, and most replies have none.
    if !headers.keys().any(|name| name.as_str().contains("ratelimit")) {
        return None;
    }
    let quota = ReportedQuota {
        dimension: None,
        requests: window(headers, &REQUESTS),
        tokens: spent_tokens(headers).unwrap_or_else(|| window(headers, &TOKENS)),
    };
    (quota != ReportedQuota::default()).then_some(quota)
}

/// Of Anthropic's windows that are used up, the one that is full again last.
fn spent_tokens(headers: &HeaderMap) -> Option<QuotaWindow> {
    ANTHROPIC_TOKENS
        .iter()
        .map(|names| window(headers, names))
        .filter(|window| window.remaining == Some(0))
        .max_by_key(|window| window.reset)
}

fn window(headers: &HeaderMap, names: &Names) -> QuotaWindow {
    let first = |names: &[&str]| names.iter().find_map(|name| text(headers, name));
    // `-1` does not parse, and so is none. A limit of zero is what a server sends that does not know its limit.
    let count = |names| first(names).and_then(|value| value.trim().parse::<u64>().ok());
    QuotaWindow {
        limit: count(names.limit).filter(|limit| *limit > 0),
        remaining: count(names.remaining),
        reset: first(names.reset).and_then(|value| parse_wait(value, server_time(headers))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn milliseconds_come_before_seconds() {
        let wait = |pairs| retry_after(&headers(pairs));
        assert_eq!(
            wait(&[("retry-after-ms", "1500"), ("retry-after", "9")]),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(
            wait(&[("retry-after-ms", "-1"), ("retry-after", "9")]),
            Some(Duration::from_secs(9))
        );
        assert_eq!(wait(&[("retry-after-ms", "NaN")]), None);
        assert_eq!(wait(&[("retry-after", "0")]), None);
        assert_eq!(wait(&[("retry-after", "Sat, 21 Nov 2020 00:01:00 GMT")]), None);
        let dated = [
            ("retry-after", "Sat, 21 Nov 2020 00:01:00 GMT"),
            ("date", "Sat, 21 Nov 2020 00:00:48 GMT"),
        ];
        assert_eq!(wait(&dated), Some(Duration::from_secs(12)));
    }

    #[test]
    fn windows_of_each_provider_are_read() {
        let quota = reported_quota(&headers(&[
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", "9999"),
            ("x-ratelimit-reset-requests", "8.64s"),
            ("x-ratelimit-limit-tokens", "0"),
            ("x-ratelimit-remaining-tokens", "-1"),
            ("x-ratelimit-reset-tokens", "6ms"),
        ]))
        .unwrap();
        assert_eq!(quota.requests.limit, Some(10_000));
        assert_eq!(quota.requests.remaining, Some(9_999));
        assert_eq!(quota.requests.reset, Some(Duration::from_millis(8_640)));
        assert_eq!((quota.tokens.limit, quota.tokens.remaining), (None, None));
        assert_eq!(quota.tokens.reset, Some(Duration::from_millis(6)));

        let mut anthropic = vec![
            ("date", "Wed, 19 Aug 2026 14:34:00 GMT"),
            ("anthropic-ratelimit-tokens-limit", "1000"),
            ("anthropic-ratelimit-tokens-remaining", "400"),
            ("anthropic-ratelimit-tokens-reset", "2026-08-19T14:34:12Z"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-08-19T14:34:05Z"),
        ];
        let tokens = |pairs: &[_]| reported_quota(&headers(pairs)).unwrap().tokens;
        assert_eq!(tokens(&anthropic[..4]).remaining, Some(400));
        assert_eq!(tokens(&anthropic).reset, Some(Duration::from_secs(5)));
        anthropic.extend([
            ("anthropic-ratelimit-output-tokens-limit", "200"),
            ("anthropic-ratelimit-output-tokens-remaining", "0"),
            ("anthropic-ratelimit-output-tokens-reset", "2026-08-19T14:34:30Z"),
        ]);
        let window = tokens(&anthropic);
        assert_eq!((window.limit, window.remaining), (Some(200), Some(0)));
        assert_eq!(window.reset, Some(Duration::from_secs(30)));

        let quota = reported_quota(&headers(&[
            ("x-ratelimit-limit-req-minute", "100"),
            ("x-ratelimit-remaining-tokens-minute", "98321"),
            ("ratelimitbysize-reset", "12"),
        ]))
        .unwrap();
        assert_eq!(quota.requests.limit, Some(100));
        assert_eq!(quota.tokens.remaining, Some(98_321));
        assert_eq!(quota.tokens.reset, Some(Duration::from_secs(12)));

        assert_eq!(
            reported_quota(&headers(&[("content-type", "application/json")])),
            None
        );
        assert_eq!(
            reported_quota(&headers(&[("x-ratelimit-limit-tokens", "-1")])),
            None
        );
    }
}
