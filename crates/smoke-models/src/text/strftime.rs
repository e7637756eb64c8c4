/// Writes a moment in the way of Python's `strftime`, in English and UTC, for the codes that chat templates use.
///
/// # Errors
/// Names the first code that is not known.
pub(super) fn strftime(format: &str, unix_seconds: u64) -> Result<String, String> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

    let days = unix_seconds / 86_400;
    let second_of_day = unix_seconds % 86_400;
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let date = date_of(days);
    let month_name = MONTHS[date.month as usize - 1];
    let weekday_name = WEEKDAYS[(days % 7) as usize];

    let mut text = String::with_capacity(format.len() * 2);
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        match rest.next() {
            Some('Y') => text.push_str(&date.year.to_string()),
            Some('y') => text.push_str(&format!("{:02}", date.year % 100)),
            Some('m') => text.push_str(&format!("{:02}", date.month)),
            Some('d') => text.push_str(&format!("{:02}", date.day)),
            Some('j') => text.push_str(&format!("{:03}", date.day_of_year)),
            Some('H') => text.push_str(&format!("{hour:02}")),
            Some('I') => text.push_str(&format!("{:02}", (hour + 11) % 12 + 1)),
            Some('p') => text.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('M') => text.push_str(&format!("{minute:02}")),
            Some('S') => text.push_str(&format!("{second:02}")),
            Some('B') => text.push_str(month_name),
            Some('b') => text.push_str(&month_name[..3]),
            Some('A') => text.push_str(weekday_name),
            Some('a') => text.push_str(&weekday_name[..3]),
            Some('%') => text.push('%'),
            Some(code) => return Err(format!("%{code}")),
            None => return Err("%".to_owned()),
        }
    }
    Ok(text)
}

struct Date {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
}

/// The date `days` after 1 January 1970. Takes a step per year, which is nothing beside rendering a template.
fn date_of(days: u64) -> Date {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = left + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    Date { year, month: month as u64 + 1, day: left + 1, day_of_year }
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn moments_are_those_of_python() {
        // Each made by Python's datetime.fromtimestamp(seconds, timezone.utc).strftime(format).
        for (seconds, format, expected) in [
            (0, "%d %b %Y", "01 Jan 1970"),
            (951_782_399, "%A %B %d, %Y", "Monday February 28, 2000"),
            (951_782_400, "%a %Y-%m-%d %H:%M:%S %j", "Tue 2000-02-29 00:00:00 060"),
            (1_709_251_199, "%Y-%m-%d %I:%M %p", "2024-02-29 11:59 PM"),
            (1_735_689_600, "%y%m%d %j 100%%", "250101 001 100%"),
            (4_107_542_400, "%d %b %Y %A", "01 Mar 2100 Monday"),
            (13_574_563_200, "%Y-%m-%d", "2400-02-29"),
        ] {
            assert_eq!(strftime(format, seconds).unwrap(), expected, "{seconds} {format}");
        }
    }

    #[test]
    fn an_unknown_code_is_named() {
        assert_eq!(strftime("%d %Q", 0).unwrap_err(), "%Q");
        assert_eq!(strftime("%", 0).unwrap_err(), "%");
    }
}
