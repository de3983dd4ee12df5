//! Numbers as the kernel reads them from sysfs writes (lib/kstrtox.c).

/// kstrtoull with base 0: decimal, `0x` hexadecimal or `0` octal, an optional `+`, one trailing newline.
pub(crate) fn parse(data: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(data).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match (hex, text.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (text, 10),
    };
    // from_str_radix would take a second sign.
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// kstrtobool: the first character decides, `on` and `off` by their second.
pub(crate) fn parse_bool(data: &[u8]) -> Option<bool> {
    match (data.first()?, data.get(1)) {
        (b'1' | b'y' | b'Y' | b't' | b'T', _) | (b'o' | b'O', Some(b'n' | b'N')) => Some(true),
        (b'0' | b'n' | b'N' | b'f' | b'F', _) | (b'o' | b'O', Some(b'f' | b'F')) => Some(false),
        _ => None,
    }
}

/// The text of a write, up to its first newline.
pub(crate) fn line(data: &[u8]) -> &str {
    let text = std::str::from_utf8(data).unwrap_or_default();
    text.split('\n').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        for (text, want) in [
            ("4\n", Some(4)),
            ("4", Some(4)),
            ("0", Some(0)),
            ("+4", Some(4)),
            ("0x10", Some(16)),
            ("010", Some(8)),
            ("08", None),
            ("", None),
            ("\n", None),
            ("0x", None),
            ("-1", None),
            ("++4", None),
            (" 4", None),
            ("4 ", None),
            ("4\n\n", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse(text.as_bytes()), want, "{text:?}");
        }
        assert_eq!(parse_bool(b"on"), Some(true));
        assert_eq!(parse_bool(b"0\n"), Some(false));
        assert_eq!(parse_bool(b"x"), None);
        assert_eq!(parse_bool(b""), None);
    }
}
