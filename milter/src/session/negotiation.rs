//! What is agreed on at the beginning of a connection: as few steps and answers as the record and the rules need.

use crate::wire::{MacroStage, Reply, VERSION_MAX, VERSION_MIN, flag};

/// The steps without which everything is still seen.
const STEPS: u32 = flag::NO_BODY
    | flag::NO_EOH
    | flag::NO_UNKNOWN
    | flag::NO_DATA
    | flag::NR_CONNECT
    | flag::NR_HELO
    | flag::NR_RCPT
    | flag::NR_DATA
    | flag::NR_HEADER
    | flag::NR_EOH
    | flag::NR_UNKNOWN
    | flag::NR_BODY;

/// For a connection that is not to be looked at: no step at all.
const STEPS_UNSEEN: u32 =
    STEPS | flag::NO_CONNECT | flag::NO_HELO | flag::NO_MAIL | flag::NO_RCPT | flag::NO_HEADERS | flag::NR_MAIL;

/// The macros that the record and the rules are made of. Both mail servers send just these where they are asked to.
const MACROS: &[(MacroStage, &str)] = &[
    (MacroStage::Connect, "j v {daemon_name} {client_addr} {client_resolve}"),
    (MacroStage::Helo, "{tls_version} {cipher}"),
    (MacroStage::Mail, "i {auth_authen} {tls_version} {cipher}"),
    (MacroStage::Rcpt, "i"),
    (MacroStage::Eom, "i {msg_id} {msg_size}"),
    // sendmail 8.17 heeds the list for the end of the message only where there is one for the end of the headers.
    (MacroStage::EndOfHeaders, "i"),
];

/// The steps to leave out and not to answer, as far as they are offered.
pub(super) fn wanted(unseen: bool, headers: bool) -> u32 {
    let steps = if unseen { STEPS_UNSEEN } else { STEPS };
    if headers { steps } else { steps | flag::NO_HEADERS }
}

/// The answer to an offer; none to a version before those known here.
pub(super) fn answer(version: u32, actions: u32, steps: u32) -> Option<Reply<'static>> {
    let actions = actions & flag::SET_MACROS;
    let macros = if actions == 0 { &[] } else { MACROS };
    (version >= VERSION_MIN).then(|| Reply::Negotiate { version: version.min(VERSION_MAX), actions, steps, macros })
}
