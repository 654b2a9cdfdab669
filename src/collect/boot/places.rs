//! How many transfers, connections or forwarded queries there may be at once: of everybody, and of one address.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    by_client: HashMap<Ipv4Addr, usize>,
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

    /// A place for `client`.
    ///
    /// # Errors
    /// The limit; where both are reached, the client's own.
    pub(super) fn take(self: &Arc<Places>, client: Ipv4Addr) -> Result<Place, Full> {
        let mut taken = self.taken();
        let of_client = taken.by_client.get(&client).copied().unwrap_or_default();
        if of_client >= self.per_client_max {
            return Err(Full::Client);
        }
        if taken.all >= self.most {
            return Err(Full::All);
        }
        taken.by_client.insert(client, of_client + 1);
        taken.all += 1;
        Ok(Place { places: self.clone(), client })
    }
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    client: Ipv4Addr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(count) = taken.by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
