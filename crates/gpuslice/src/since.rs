//! Moments as people type them, in the form in which the history has its times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads a moment: `2h` and `7d` back from now, `2026-03-01`, `2026-03-01 18:00`, or with seconds; in UTC.
pub fn since(text: &str) -> Result<String, String> {
    since_before(text, SystemTime::now())
}

fn since_before(text: &str, now: SystemTime) -> Result<String, String> {
    let date = ["", ":00", " 00:00:00"]
        .iter()
        .find_map(|rest| humantime::parse_rfc3339_weak(&format!("{text}{rest}")).ok());
    let moment = match date {
        Some(date) => Some(date),
        None => humantime::parse_duration(text)
            .ok()
            .and_then(|span| now.checked_sub(span))
            .filter(|at| *at >= UNIX_EPOCH),
    };
    let moment = moment
        .ok_or("expected a date like 2026-03-01 or '2026-03-01 18:00', or a span like 2h or 7d")?;
    Ok(humantime::format_rfc3339_millis(moment).to_string())
}

/// Reads how long to wait: seconds, or with units.
pub fn span(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    let span = seconds.or_else(|| humantime::parse_duration(text).ok());
    span.ok_or_else(|| "expected seconds, or a span like 90s, 30m or 2h".to_owned())
}

/// How long something lasted, in its two largest units.
pub fn lasted(from: &str, to: &str) -> Option<String> {
    let moment = |text| humantime::parse_rfc3339(text).ok();
    let span = moment(to)?.duration_since(moment(from)?).ok()?;
    let seconds = span.as_secs();
    let in_words = |(large, small): ((u64, &str), (u64, &str))| {
        let whole = seconds / large.0;
        (whole > 0)
            .then(|| format!("{whole}{} {}{}", large.1, seconds % large.0 / small.0, small.1))
    };
    let (day, hour, minute, second) = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"));
    let units = [(day, hour), (hour, minute), (minute, second)];
    units.into_iter().find_map(in_words).or_else(|| Some(format!("{seconds}s")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_spans_are_moments() {
        let now = humantime::parse_rfc3339("2026-03-08T12:00:00Z").unwrap();
        for (text, want) in [
            ("2026-03-01", Ok("2026-03-01T00:00:00.000Z")),
            ("2026-03-01 18:00", Ok("2026-03-01T18:00:00.000Z")),
            ("2026-03-01T18:00:01Z", Ok("2026-03-01T18:00:01.000Z")),
            ("2h", Ok("2026-03-08T10:00:00.000Z")),
            ("7d", Ok("2026-03-01T12:00:00.000Z")),
            ("yesterday", Err(())),
            ("2026-02-30", Err(())),
            ("", Err(())),
            ("99999999y", Err(())),
        ] {
            let got = since_before(text, now);
            assert_eq!(got.as_deref().map_err(|_| ()), want, "{text}");
        }
    }

    #[test]
    fn a_wait_is_seconds_or_has_units() {
        for (text, want) in [
            ("90", Some(90)),
            ("30m", Some(1800)),
            ("1h 30m", Some(5400)),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(span(text).ok(), want.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn spans_have_two_units() {
        let from = "2026-03-01T18:00:00.000Z";
        for (to, want) in [
            ("2026-03-01T18:00:00.900Z", Some("0s")),
            ("2026-03-01T18:01:30.000Z", Some("1m 30s")),
            ("2026-03-01T20:03:59.000Z", Some("2h 3m")),
            ("2026-03-31T19:00:00.000Z", Some("30d 1h")),
            // The clock was set back.
            ("2026-03-01T17:00:00.000Z", None),
        ] {
            assert_eq!(lasted(from, to).as_deref(), want, "{to}");
        }
    }
}
