//! Why a packet was answered as it was: the event's `why`, and a label of the metrics.

use super::bootfile::Nothing;
use super::wire::Malformed;
use crate::collect::boot::policy;

/// All reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A folder names it.
    Known,
    /// It has the files of `default/`.
    Default,
    Malformed(Malformed),
    /// Policy.
    Refused(policy::Why),
    TooMany,
    Listening,
    NoNetwork,
    /// A relay that is none: not from a network of ours, or with an address that is not of one.
    Relay,
    ServersMessage,
    /// Another server's answer.
    Foreign,
    /// Ours, seen on the wire.
    OurOwn,
    /// It speaks to another server.
    NotOurs,
    /// In proxy mode: addresses are another server's.
    LeftToOther,
    NoAddress,
    WrongNetwork,
    OtherAddress,
    NotInPool,
    AddressHeld,
    Quarantined,
    NoPool,
    Exhausted,
    TooManyAddresses,
    NotHeld,
    UnknownBootp,
    Nothing(Nothing),
    /// The client found its address in use.
    Declined,
    /// The same, of a card that has declined so many that it is not believed any more.
    DeclinesTooMany,
    Released,
    /// Another card answered for an address.
    Conflict,
}

impl Why {
    /// For people, and one of a fixed few.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Why::Known => "known machine",
            Why::Default => "default",
            Why::Malformed(malformed) => malformed.name(),
            Why::Refused(why) => why.name(),
            Why::TooMany => "too many messages",
            Why::Listening => "listening only",
            Why::NoNetwork => "no network of ours",
            Why::Relay => "relay not trusted",
            Why::ServersMessage => "a server's message",
            Why::Foreign => "another server",
            Why::OurOwn => "our own answer",
            Why::NotOurs => "for another server",
            Why::LeftToOther => "left to the other server",
            Why::NoAddress => "no address named",
            Why::WrongNetwork => "its address is in another network",
            Why::OtherAddress => "not its address",
            Why::NotInPool => "not in the pool",
            Why::AddressHeld => "another has the address",
            Why::Quarantined => "somebody uses the address",
            Why::NoPool => "no pool",
            Why::Exhausted => "pool exhausted",
            Why::TooManyAddresses => "the card has too many addresses",
            Why::NotHeld => "nothing to give back",
            Why::UnknownBootp => "bootp of an unknown machine",
            Why::Nothing(nothing) => nothing.name(),
            Why::Declined => "declined",
            Why::DeclinesTooMany => "the card declines too many addresses",
            Why::Released => "released",
            Why::Conflict => "another card answers for the address",
        }
    }

    /// Whether the machine cannot start because of it and somebody has to do something.
    pub(crate) fn is_failure(self) -> bool {
        matches!(
            self,
            Why::WrongNetwork
                | Why::AddressHeld
                | Why::Quarantined
                | Why::NoPool
                | Why::Exhausted
                | Why::TooManyAddresses
                | Why::DeclinesTooMany
                | Why::UnknownBootp
                | Why::Conflict
                | Why::Nothing(Nothing::NoLoader | Nothing::Off | Nothing::TooLong)
        )
    }
}
