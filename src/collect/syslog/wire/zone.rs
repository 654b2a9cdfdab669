//! Time zones behind a time: `UTC`, `+0100`, `CEST`.
//!
//! A name is what an administrator typed (on Cisco any word is one), so only `UTC`,
//! `GMT` and `Z` are taken at their word. The offset of another known name is used and
//! one that is not known, or known for several zones, leaves the configured zone; in
//! both cases the time is said to have a guessed zone.

use super::stamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Zone {
    pub(super) len: usize,
    pub(super) offset_seconds: Option<i32>,
    /// By a name other than those of UTC.
    pub(super) guessed: bool,
}

/// A zone at the start of `s`, up to a blank, a colon or the end.
pub(super) fn zone(s: &[u8]) -> Option<Zone> {
    if let [b'+' | b'-', ..] = s {
        let (seconds, len) = stamp::offset(s)?;
        return ends(s, len).then_some(Zone { len, offset_seconds: Some(seconds), guessed: false });
    }
    let len = s.iter().take(6).take_while(|c| c.is_ascii_uppercase()).count();
    if !(1..=5).contains(&len) || !ends(s, len) {
        return None;
    }
    let name = &s[..len];
    if matches!(name, b"UTC" | b"GMT" | b"Z") {
        return Some(Zone { len, offset_seconds: Some(0), guessed: false });
    }
    Some(Zone { len, offset_seconds: minutes(name).map(|m| m * 60), guessed: true })
}

/// A zone where a host name may stand: only names that are known to be zones.
pub(super) fn known_zone(s: &[u8]) -> Option<Zone> {
    zone(s).filter(|z| z.offset_seconds.is_some())
}

fn ends(s: &[u8], len: usize) -> bool {
    matches!(s.get(len), None | Some(b' ' | b'\t' | b':'))
}

/// `CST`, `BST`, `IST` and others that name several zones are left out.
fn minutes(name: &[u8]) -> Option<i32> {
    Some(match name {
        b"HST" => -600,
        b"AKST" => -540,
        b"AKDT" | b"PST" => -480,
        b"PDT" | b"MST" => -420,
        b"MDT" => -360,
        b"CDT" | b"EST" => -300,
        b"EDT" => -240,
        b"BRT" => -180,
        b"WET" => 0,
        b"WEST" | b"CET" | b"MEZ" => 60,
        b"CEST" | b"MESZ" | b"EET" | b"SAST" => 120,
        b"EEST" | b"MSK" => 180,
        b"PKT" => 300,
        b"SGT" | b"HKT" | b"AWST" => 480,
        b"JST" | b"KST" => 540,
        b"ACST" => 570,
        b"AEST" => 600,
        b"AEDT" => 660,
        b"NZST" => 720,
        b"NZDT" => 780,
        _ => return None,
    })
}
