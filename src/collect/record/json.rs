//! JSON strings from arbitrary bytes: always valid, always on one line.

/// Appends `"…"`. What is not UTF-8 becomes U+FFFD.
pub(in crate::collect) fn string(out: &mut Vec<u8>, bytes: &[u8], is_utf8: bool) {
    out.push(b'"');
    text(out, bytes, is_utf8);
    out.push(b'"');
}

/// The inside of a string, for values that are written in pieces.
pub(in crate::collect) fn text(out: &mut Vec<u8>, bytes: &[u8], is_utf8: bool) {
    if is_utf8 {
        return escaped(out, bytes);
    }
    for chunk in bytes.utf8_chunks() {
        escaped(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
}

/// Copies runs, since hardly any byte of a log needs an escape.
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut left = bytes;
    while let Some(at) = first_special(left) {
        let (run, rest) = left.split_at(at);
        out.extend_from_slice(run);
        let Some((&c, rest)) = rest.split_first() else {
            return;
        };
        escape(out, c);
        left = rest;
    }
    out.extend_from_slice(left);
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGHS: u64 = ONES << 7;

/// The first quote, backslash or control character: eight bytes at a time, each test
/// leaving the high bit set in (at least) the byte that it is true of.
fn first_special(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let w = u64::from_le_bytes(*chunk);
        let quote = w ^ (ONES * b'"' as u64);
        let slash = w ^ (ONES * b'\\' as u64);
        let hit = (quote.wrapping_sub(ONES) & !quote)
            | (slash.wrapping_sub(ONES) & !slash)
            | (w.wrapping_sub(ONES * 0x20) & !w);
        let hit = hit & HIGHS;
        if hit != 0 {
            // The lowest set byte is exact: borrows only travel upwards from a true hit.
            return Some(at + (hit.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    bytes[at..].iter().position(|c| is_special(*c)).map(|i| at + i)
}

fn is_special(c: u8) -> bool {
    c < 0x20 || c == b'"' || c == b'\\'
}

fn escape(out: &mut Vec<u8>, c: u8) {
    match c {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(c >> 4)]);
            out.push(HEX[usize::from(c & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_round_trips_or_is_replaced() {
        let all: Vec<u8> = (0..=255).collect();
        for start in 0..256 {
            let mut out = Vec::new();
            string(&mut out, &all[start..], false);
            let back: String = serde_json::from_slice(&out).expect("valid JSON");
            assert_eq!(back, String::from_utf8_lossy(&all[start..]));
            assert!(!out.contains(&b'\n'));
        }
    }

    #[test]
    fn escapes_at_every_place_of_a_word() {
        for special in ["\"", "\\", "\n", "\u{1}", "\u{1f}", "!", "\u{7f}", "ü"] {
            for before in 0..20 {
                let text = format!("{}{special}{}", "a".repeat(before), "b".repeat(20 - before));
                let mut out = Vec::new();
                string(&mut out, text.as_bytes(), true);
                assert_eq!(serde_json::from_slice::<String>(&out).expect("valid JSON"), text);
            }
        }
    }
}
