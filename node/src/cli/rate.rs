//! [pure] Rates of connections as people write them: `1 Mbit/s`, `100 KiB/s`.

/// Units, and how many bits a second one is. The first that fits is the one that is shown.
const UNITS: [(&str, u64); 13] = [
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1000),
    ("bit/s", 1),
    ("B/s", 8),
    ("kB/s", 8 * 1000),
    ("MB/s", 8 * 1_000_000),
    ("GB/s", 8 * 1_000_000_000),
    ("KiB/s", 8 << 10),
    ("MiB/s", 8 << 20),
    ("GiB/s", 8 << 30),
    ("Mbps", 1_000_000),
    ("kbps", 1000),
];
/// Digits behind the point.
const DECIMALS: usize = 3;

/// Bits a second; 0 for `auto`, which is not declared.
///
/// # Errors
/// What such a rate looks like.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text == "auto" || text == "0" {
        return Ok(0);
    }
    let wrong = || "a number and a unit: \"1 Mbit/s\", \"100 KiB/s\", or auto".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(at.ok_or_else(wrong)?);
    let unit = unit.trim();
    let bits = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let (_, bits) = bits.ok_or_else(wrong)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.len() > DECIMALS || (whole.is_empty() && part.is_empty()) {
        return Err(wrong());
    }
    let digits = |text: &str| {
        if text.is_empty() {
            Ok(0)
        } else {
            text.parse::<u64>()
        }
    };
    let whole = digits(whole).map_err(|_| wrong())?;
    let part = digits(&format!("{part:0<DECIMALS$}")).map_err(|_| wrong())?;
    let too_fast = || "this is too fast".to_owned();
    let thousandths = whole
        .checked_mul(1000)
        .and_then(|all| all.checked_add(part));
    let bits = thousandths.and_then(|all| all.checked_mul(*bits));
    Ok(bits.ok_or_else(too_fast)? / 1000)
}

/// As it is shown: in the largest unit of bits that leaves at most [`DECIMALS`] decimals; exact.
pub(super) fn text(bits: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| {
        bits >= *unit && bits.checked_mul(1000).is_some_and(|all| all % unit == 0)
    };
    let units = UNITS.get(..4).unwrap_or_default();
    let Some((name, unit)) = units.iter().find(fits) else {
        return format!("{bits} bit/s");
    };
    let (whole, rest) = (bits / unit, bits % unit * 1000 / unit);
    let part = format!("{rest:03}");
    match part.trim_end_matches('0') {
        "" => format!("{whole} {name}"),
        part => format!("{whole}.{part} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        for (given, bits) in [
            ("1 Mbit/s", 1_000_000),
            ("1mbit/s", 1_000_000),
            ("100 KiB/s", 819_200),
            ("1.5 Mbps", 1_500_000),
            (".5 kB/s", 4000),
            ("10GB/s", 80_000_000_000),
            ("auto", 0),
            ("0", 0),
        ] {
            assert_eq!(parse(given), Ok(bits), "{given}");
        }
        for bad in [
            "",
            "1",
            "fast",
            "-1 Mbit/s",
            "1 parsec",
            "1.2345 Mbit/s",
            ". kB/s",
            "1.2.3 B/s",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("99999999999999999 GiB/s").is_err());
    }

    #[test]
    fn what_is_shown_can_be_given_again() {
        let shown = [1_000_000, 819_200, 1_500_000, 7, 80_000_000_000].map(text);
        assert_eq!(
            shown,
            [
                "1 Mbit/s",
                "819.2 kbit/s",
                "1.5 Mbit/s",
                "7 bit/s",
                "80 Gbit/s"
            ]
        );
        for bits in [1, 999, 1001, 12_345_678, u64::MAX / 1000, u64::MAX] {
            if let Ok(again) = parse(&text(bits)) {
                assert_eq!(again, bits);
            } else {
                assert!(bits > u64::MAX / 1000);
            }
        }
    }
}
