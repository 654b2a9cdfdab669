//! How many transfers, connections or forwarded queries there may be at once: of everybody, and of one address.
//!
//! Where all places are taken nobody gets a further one by [`Places::take`]. By [`Places::take_fairly`] the client that has
//! the most gives up its oldest, to one that has fewer. However many ask, and in whoever's name:
//!
//! * a client that has none gets a place;
//! * of n clients none that has up to 1/n of all places loses one: whoever has the most has more than that.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// All places. The table is no larger than what is taken.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    per_client_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// The number of the next place; later ones are higher.
    next: u64,
    by_client: HashMap<Ipv4Addr, BTreeMap<u64, CancellationToken>>,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    All,
    Client,
}

impl Places {
    pub(super) fn new(most: usize, per_client_max: usize) -> Arc<Places> {
        Arc::new(Places { most, per_client_max, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free place for `client`.
    ///
    /// # Errors
    /// The limit; where both are reached, the client's own.
    pub(super) fn take(self: &Arc<Places>, client: Ipv4Addr) -> Result<Place, Full> {
        self.take_or(client, |_, _| false)
    }

    /// A place for `client`: a free one, or that of a client that has more and waits for [`Place::lost`].
    ///
    /// # Errors
    /// As [`Places::take`]; all are taken only where the client is among those that have the most.
    pub(super) fn take_fairly(self: &Arc<Places>, client: Ipv4Addr) -> Result<Place, Full> {
        self.take_or(client, Taken::give_up)
    }

    /// `free`: whether there is room after all for a client that has so many.
    fn take_or(
        self: &Arc<Places>,
        client: Ipv4Addr,
        free: impl FnOnce(&mut Taken, usize) -> bool,
    ) -> Result<Place, Full> {
        let mut taken = self.taken();
        let own = taken.by_client.get(&client).map_or(0, BTreeMap::len);
        if own >= self.per_client_max {
            return Err(Full::Client);
        }
        if taken.all >= self.most && !free(&mut taken, own) {
            return Err(Full::All);
        }
        let number = taken.next;
        taken.next += 1;
        let lost = CancellationToken::new();
        taken.by_client.entry(client).or_default().insert(number, lost.clone());
        taken.all += 1;
        Ok(Place { places: self.clone(), client, number, lost })
    }
}

impl Taken {
    /// Has the client that has the most, and more than `own`, give up its oldest; of several such the one with the oldest
    /// of all.
    fn give_up(&mut self, own: usize) -> bool {
        let first = |places: &BTreeMap<u64, _>| places.first_key_value().map(|(number, _)| *number);
        let has_more = self.by_client.iter().filter(|(_, places)| places.len() > own);
        let most = has_more.max_by_key(|(_, places)| (places.len(), Reverse(first(places))));
        let Some((client, number)) = most.and_then(|(client, places)| Some((*client, first(places)?))) else {
            return false;
        };
        let lost = self.give_back(client, number);
        lost.inspect(CancellationToken::cancel).is_some()
    }

    fn give_back(&mut self, client: Ipv4Addr, number: u64) -> Option<CancellationToken> {
        let places = self.by_client.get_mut(&client)?;
        let place = places.remove(&number)?;
        if places.is_empty() {
            self.by_client.remove(&client);
        }
        self.all -= 1;
        Some(place)
    }
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    client: Ipv4Addr,
    number: u64,
    lost: CancellationToken,
}

impl Place {
    /// Waits until another client has it.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // None where it is another's by now.
        let _ = self.places.taken().give_back(self.client, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0a4d_0000 + number)
    }

    /// As many as a client gets.
    fn fill(places: &Arc<Places>, number: u32) -> Vec<Place> {
        std::iter::from_fn(|| places.take_fairly(client(number)).ok()).collect()
    }

    fn kept(places: &[Place]) -> usize {
        places.iter().filter(|place| !place.lost.is_cancelled()).count()
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let places = Places::new(3, 2);
        let take = |last| places.take(Ipv4Addr::new(10, 0, 0, last));
        let first = take(9).unwrap();
        let _second = take(9).unwrap();
        assert_eq!(take(9).unwrap_err(), Full::Client);
        let third = take(8).unwrap();
        assert_eq!((take(7).unwrap_err(), take(9).unwrap_err()), (Full::All, Full::Client));
        drop(first);
        let fourth = take(7).unwrap();
        drop((third, fourth));
        let taken = places.taken();
        assert_eq!((taken.all, taken.by_client.len()), (1, 1));
    }

    #[test]
    fn who_has_the_most_gives_up_its_oldest() {
        let places = Places::new(3, 2);
        let first = places.take_fairly(client(9)).unwrap();
        let _second = places.take_fairly(client(9)).unwrap();
        assert_eq!(places.take_fairly(client(9)).unwrap_err(), Full::Client);
        let third = places.take_fairly(client(8)).unwrap();
        // Its oldest, and once: it has one then, like the others.
        let fourth = places.take_fairly(client(7)).unwrap();
        assert!(first.lost.is_cancelled() && !third.lost.is_cancelled());
        assert_eq!(places.take_fairly(client(8)).unwrap_err(), Full::All);
        drop(first);
        assert_eq!(places.take_fairly(client(9)).unwrap_err(), Full::All, "what was lost is not given back");
        drop((third, fourth));
        let taken = places.taken();
        assert_eq!((taken.all, taken.by_client.len()), (1, 1));
    }

    #[test]
    fn however_many_fill_them_another_one_finds_room() {
        for greedy in [8, 100, 1000] {
            let places = Places::new(512, 64);
            let all: Vec<_> = (0..greedy).map(|number| fill(&places, number)).collect();
            assert_eq!(all.iter().map(|places| kept(places)).sum::<usize>(), 512, "{greedy}");
            let newcomer = fill(&places, greedy);
            let fair = 512 / (greedy as usize + 1);
            assert!(newcomer.len() >= fair.max(1), "{greedy}: {}", newcomer.len());
            // Whoever comes after it does not take that away.
            let _more: Vec<_> = (0..greedy).map(|number| fill(&places, number)).collect();
            assert!(kept(&newcomer) >= fair, "{greedy}: {}", kept(&newcomer));
        }
    }

    #[test]
    fn none_within_its_share_loses_a_place_and_none_without_any_is_refused() {
        const MOST: usize = 24;
        let places = Places::new(MOST, 10);
        let mut random = 1_u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        let mut held: Vec<Place> = Vec::new();
        let (mut given_up, mut refused) = (0, 0);
        for _ in 0..20_000 {
            if below(3) == 0 && !held.is_empty() {
                held.swap_remove(below(held.len() as u64) as usize);
                continue;
            }
            // Some ask often, and many now and then.
            let asker = client(if below(2) == 0 { below(3) } else { below(40) } as u32);
            let before: HashMap<_, _> =
                places.taken().by_client.iter().map(|(client, places)| (*client, places.len())).collect();
            let taken = places.take_fairly(asker);
            assert!(taken.is_ok() || before.contains_key(&asker));
            refused += usize::from(taken.is_err());
            held.extend(taken);
            let clients = before.len() + usize::from(!before.contains_key(&asker));
            for loser in held.iter().filter(|place| place.lost.is_cancelled()) {
                assert!(loser.client != asker && before[&loser.client] * clients > MOST, "{before:?} {loser:?}");
                given_up += 1;
            }
            held.retain(|place| !place.lost.is_cancelled());
            assert_eq!(held.len(), places.taken().all);
            assert!(held.len() <= MOST);
        }
        assert!(given_up > 1000 && refused > 1000, "{given_up} {refused}");
        drop(held);
        assert!(places.taken().by_client.is_empty());
    }
}
