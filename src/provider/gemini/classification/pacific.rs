//! Midnight in California, when the quotas of a day begin anew.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// The time from `now` to the next midnight on the Pacific coast.
pub(super) fn until_midnight(now: SystemTime) -> Duration {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(now.as_secs()).unwrap_or_default();
    let today = offset(seconds);
    // By the clock on the wall, which may have changed by then.
    let midnight = ((seconds + today).div_euclid(DAY) + 1) * DAY;
    let next = midnight - offset(midnight - today);
    let left = u64::try_from(next - seconds).unwrap_or_default();
    Duration::from_secs(left)
}

/// Seconds to add to universal time: 7 hours less in summer, 8 in winter. Summer is from the second Sunday of March to the
/// first Sunday of November, each at two in the morning by the clock that ends.
fn offset(seconds: i64) -> i64 {
    let (year, first_of_year) = year_of(seconds.div_euclid(DAY));
    let leap = i64::from(is_leap(year));
    let sunday_from = |day: i64| day + (3 - day).rem_euclid(7);
    let march = sunday_from(first_of_year + 59 + leap) + 7;
    let november = sunday_from(first_of_year + 304 + leap);
    let summer = march * DAY + 10 * HOUR..november * DAY + 9 * HOUR;
    if summer.contains(&seconds) {
        -7 * HOUR
    } else {
        -8 * HOUR
    }
}

/// The year of a day since 1970, and the first day of that year.
fn year_of(day: i64) -> (i64, i64) {
    let (mut year, mut first) = (1970, 0);
    loop {
        let next = first + 365 + i64::from(is_leap(year));
        // A clock beyond any sense stays in the last year that counts.
        if day < next || year > 9_999 {
            return (year, first);
        }
        (year, first) = (year + 1, next);
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn midnight_is_that_of_the_season() {
        for (now, hours) in [
            // Winter: eight hours behind.
            ("2026-11-22T07:00:00Z", 1.0),
            ("2026-11-22T08:00:00Z", 24.0),
            ("2026-01-15T20:00:00Z", 12.0),
            // Summer: seven.
            ("2026-07-01T06:30:00Z", 0.5),
            ("2028-07-01T06:30:00Z", 0.5),
            // The days on which the clocks change: 8 March and 1 November 2026.
            ("2026-03-08T08:00:00Z", 23.0),
            ("2026-03-08T12:00:00Z", 19.0),
            ("2026-03-07T09:00:00Z", 23.0),
            ("2026-11-01T07:00:00Z", 25.0),
            ("2026-11-01T12:00:00Z", 20.0),
            ("2026-10-31T08:00:00Z", 23.0),
        ] {
            let time = humantime::parse_rfc3339(now).unwrap();
            assert_eq!(until_midnight(time).as_secs_f64() / 3_600.0, hours, "{now}");
        }
        assert!(until_midnight(UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2)) >= Duration::ZERO);
    }
}
