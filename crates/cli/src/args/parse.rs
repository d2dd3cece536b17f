//! Values as people write them.

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Bytes from `1048576`, `512K`, `64M` or `2G`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let expected = "expected a number with K, M or G";
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| expected)?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".into())
}

/// Thousandths of a core from `0.5` or `2`.
pub(super) fn cores(text: &str) -> Result<u32, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let expected = "expected a number of cores with up to three decimals";
    if part.len() > 3 {
        return Err(expected.into());
    }
    let parse = |digits: &str| digits.parse::<u32>().map_err(|_| expected.to_owned());
    let part = parse(&format!("{part:0<3}"))?;
    let whole = parse(whole)?.checked_mul(1_000).ok_or("too many")?;
    whole.checked_add(part).ok_or_else(|| "too many".into())
}

/// Seconds from `90`, `90s`, `5m`, `2h` or `7d`.
pub(super) fn span(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("expected a number with s, m, h or d".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a number with s, m, h or d")?;
    number.checked_mul(factor).ok_or_else(|| "too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_cores() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("2G"), Ok(2 << 30));
        assert!(size("2T").is_err() && size("").is_err() && size("99999999999999999999").is_err());
        assert_eq!(cores("2"), Ok(2_000));
        assert_eq!(cores("0.25"), Ok(250));
        assert!(cores("0.0001").is_err() && cores("-1").is_err() && cores(".").is_err());
    }

    #[test]
    fn spans() {
        assert_eq!(span("90"), Ok(90));
        assert_eq!(span("5m"), Ok(300));
        assert_eq!(span("7d"), Ok(604_800));
        assert!(span("5x").is_err() && span("m").is_err() && span("").is_err());
    }
}
