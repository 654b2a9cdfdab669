//! What of a request decides about the answer: the path and the range (RFC 9110). Pure.

use crate::collect::boot::files::Name;

/// The bytes of a path: escapes (RFC 3986, 2.1) are undone, the query is not part of it.
///
/// `None` where a `%` is not followed by two hexadecimal digits.
pub(super) fn decode(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            byte => byte,
        });
    }
    Some(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// Which bytes of something are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// From the first to the last, both of them in it.
    Bytes(u64, u64),
    /// There is nothing there: 416.
    Nothing,
}

/// What a `Range` says of `size` bytes. Several ranges and other units may be left alone, and are.
pub(super) fn part(range: &str, size: u64) -> Part {
    let spec = range.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = spec.and_then(|(_, spec)| spec.trim().split_once('-')) else { return Part::Whole };
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok());
    let (Some(from), Some(to)) = (number(first.trim()), number(last.trim())) else { return Part::Whole };
    // A number with digits that does not fit is beyond every file.
    let to = if last.trim().is_empty() { None } else { Some(to.unwrap_or(u64::MAX)) };
    if first.trim().is_empty() {
        return match to {
            None => Part::Whole,
            Some(0) => Part::Nothing,
            Some(_) if size == 0 => Part::Nothing,
            Some(count) => Part::Bytes(size.saturating_sub(count), size - 1),
        };
    }
    let from = from.unwrap_or(u64::MAX);
    match to {
        Some(to) if to < from => Part::Whole,
        _ if from >= size => Part::Nothing,
        to => Part::Bytes(from, to.unwrap_or(u64::MAX).min(size - 1)),
    }
}

/// What firmware and people are told of a file. UEFI knows these types (UEFI 2.10, 24.7.2).
pub(super) fn content_type(name: &Name) -> &'static str {
    if name.has_ending(".ipxe") {
        "text/plain; charset=utf-8"
    } else if name.has_ending(".efi") {
        "application/efi"
    } else if name.has_ending(".iso") {
        "application/vnd.efi-iso"
    } else {
        "application/octet-stream"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_once() {
        for (path, wanted) in [
            ("/a%2Fb", Some(&b"/a/b"[..])),
            ("/%2e%2E/x", Some(b"/../x")),
            ("/%252e", Some(b"/%2e")),
            ("/a+b%20c%ff", Some(b"/a+b c\xff")),
            ("", Some(b"")),
            ("/%", None),
            ("/%4", None),
            ("/%zz", None),
            ("/%+1", None),
        ] {
            assert_eq!(decode(path).as_deref(), wanted, "{path}");
        }
    }

    #[test]
    fn ranges() {
        for (range, wanted) in [
            ("bytes=0-0", Part::Bytes(0, 0)),
            ("bytes=0-99", Part::Bytes(0, 99)),
            ("bytes=10-", Part::Bytes(10, 99)),
            ("Bytes = 10 - 20", Part::Bytes(10, 20)),
            ("bytes=90-1000", Part::Bytes(90, 99)),
            ("bytes=90-99999999999999999999999", Part::Bytes(90, 99)),
            ("bytes=-10", Part::Bytes(90, 99)),
            ("bytes=-1000", Part::Bytes(0, 99)),
            ("bytes=-0", Part::Nothing),
            ("bytes=100-", Part::Nothing),
            ("bytes=99999999999999999999999-", Part::Nothing),
            ("bytes=20-10", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("0-1", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part(range, 100), wanted, "{range}");
        }
        assert_eq!((part("bytes=0-", 0), part("bytes=-1", 0)), (Part::Nothing, Part::Nothing));
    }

    #[test]
    fn types() {
        let of = |name: &str| content_type(&Name::of(name.as_bytes()).unwrap());
        assert_eq!(of("BOOTX64.EFI"), "application/efi");
        assert_eq!(of("x.iso"), "application/vnd.efi-iso");
        assert!(of("a/b.ipxe").starts_with("text/plain"));
        assert_eq!(of("vmlinuz"), "application/octet-stream");
    }
}
