//! Texts as mail servers pass them on: unchecked bytes.

use std::net::IpAddr;

/// Longer texts of a client are cut in the record. SMTP lines are shorter: RFC 5321 section 4.5.3.1.
pub const TEXT_BYTES_MAX: usize = 4096;

pub(super) fn kept(text: &[u8]) -> Vec<u8> {
    text[..text.len().min(TEXT_BYTES_MAX)].to_vec()
}

/// Without angle brackets.
pub(super) fn bare(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"<").and_then(|path| path.strip_suffix(b">")).unwrap_or(path)
}

pub(super) fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

pub(super) fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    Some(text.strip_prefix("IPv6:").unwrap_or(text).parse::<IpAddr>().ok()?.to_canonical())
}

pub(super) fn strip_prefix_ignore_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}
