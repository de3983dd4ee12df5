//! Places of the calls that are under way on the bus. Anybody may ask, each call takes memory until it is answered, and
//! some are answered when something has come: so there are so many places and no more, and calls are short.

use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_hook_proto::REQUEST_LIMIT;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use zbus::names::OwnedUniqueName;

/// Calls of one connection.
const OF_ONE: usize = 128;

/// Calls of all connections together, without those of root and the agent: for these there is always room.
const OF_ALL: usize = 256;

/// Bytes of arguments that anybody may send. As values they can be a hundred times as long.
const SHORT: usize = 8 << 10;

/// What root and the agent may send, which tells of whole domains: as much as a hook may.
const LONG: usize = REQUEST_LIMIT;

/// Methods whose answers can be megabytes for each who asks, read from a disk or made of all objects: one of these is under
/// way at a time.
const AT_LENGTH: [&str; 2] = ["ListHistory", "GetManagedObjects"];

/// The places of one bus.
#[derive(Debug, Clone)]
pub struct Places {
    taken: Arc<Mutex<Taken>>,
    at_length: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self { taken: Arc::default(), at_length: Arc::new(Semaphore::new(1)) }
    }
}

#[derive(Debug, Default)]
struct Taken {
    by: HashMap<Option<OwnedUniqueName>, Connected>,
    of_all: usize,
}

/// A connection with calls under way.
#[derive(Debug, Default)]
struct Connected {
    calls: usize,
    /// It is root's or the agent's, where that had to be asked.
    trusted: Arc<OnceCell<bool>>,
}

/// One of them.
#[derive(Debug)]
pub struct Place {
    taken: Arc<Mutex<Taken>>,
    by: Option<OwnedUniqueName>,
    trusted: Arc<OnceCell<bool>>,
    of_all: bool,
    at_length: Option<OwnedSemaphorePermit>,
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    /// Whether the answer to this method can be megabytes.
    pub fn answers_at_length(method: &str) -> bool {
        AT_LENGTH.contains(&method)
    }

    /// Takes one for a call with so many bytes of arguments. Who the caller is, is asked only where it matters, and once
    /// for all its calls under way: `trusted` tells whether it is root or the agent.
    pub async fn take<F>(
        &self,
        by: Option<OwnedUniqueName>,
        method: &str,
        length: usize,
        trusted: impl Fn() -> F + Send + Sync,
    ) -> Result<Place, Refusal>
    where
        F: Future<Output = bool> + Send,
    {
        if length > LONG {
            return Err(too_long(method, length, LONG));
        }
        let mut place = self.of_one(by)?;
        if length > SHORT && !place.is_trusted(&trusted).await {
            return Err(too_long(method, length, SHORT));
        }
        if !place.counts() && !place.is_trusted(&trusted).await {
            return Err(Refusal::new(
                Code::Unreachable,
                format!("{OF_ALL} calls are under way, and none is begun beside them but root's"),
            )
            .hint(hint!("try again; or run it as root")));
        }
        if Self::answers_at_length(method) {
            place.at_length = match Arc::clone(&self.at_length).try_acquire_owned() {
                Ok(only) => Some(only),
                Err(_) if place.is_trusted(&trusted).await => None,
                Err(_) => Arc::clone(&self.at_length).acquire_owned().await.ok(),
            };
        }
        Ok(place)
    }

    fn of_one(&self, by: Option<OwnedUniqueName>) -> Result<Place, Refusal> {
        let mut taken = lock(&self.taken);
        let connected = taken.by.entry(by.clone()).or_default();
        if connected.calls >= OF_ONE {
            return Err(Refusal::new(
                Code::Unreachable,
                format!("{OF_ONE} calls of this connection are under way, and no other is begun"),
            )
            .hint(hint!("try again")));
        }
        connected.calls += 1;
        let trusted = Arc::clone(&connected.trusted);
        drop(taken);
        let taken = Arc::clone(&self.taken);
        Ok(Place { taken, by, trusted, of_all: false, at_length: None })
    }
}

impl Place {
    /// Makes it one of all; `false` when there is none left.
    fn counts(&mut self) -> bool {
        if self.trusted.get() == Some(&true) {
            return true;
        }
        let mut taken = lock(&self.taken);
        self.of_all = taken.of_all < OF_ALL;
        taken.of_all += usize::from(self.of_all);
        self.of_all
    }

    async fn is_trusted<F: Future<Output = bool> + Send>(
        &self,
        trusted: impl Fn() -> F + Send + Sync,
    ) -> bool {
        *self.trusted.get_or_init(trusted).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.of_all -= usize::from(self.of_all);
        if let Entry::Occupied(mut connected) = taken.by.entry(self.by.take()) {
            connected.get_mut().calls -= 1;
            if connected.get().calls == 0 {
                connected.remove();
            }
        }
    }
}

fn too_long(method: &str, length: usize, most: usize) -> Refusal {
    let message = format!(
        "the arguments of {method} are {length} bytes long, and {most} at the most are read"
    );
    Refusal::new(Code::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn name(number: usize) -> Option<OwnedUniqueName> {
        Some(format!(":1.{number}").as_str().try_into().unwrap())
    }

    async fn take(places: &Places, number: usize, trusted: bool) -> Result<Place, Code> {
        let place = places.take(name(number), "Status", 0, || std::future::ready(trusted)).await;
        place.map_err(|refusal| refusal.code)
    }

    #[tokio::test]
    async fn a_connection_has_so_many_and_what_it_gives_back_it_has_again() {
        let places = Places::default();
        for trusted in [false, true] {
            let mut its = Vec::new();
            for _ in 0..OF_ONE {
                its.push(take(&places, 1, trusted).await.unwrap());
            }
            assert_eq!(take(&places, 1, trusted).await.unwrap_err(), Code::Unreachable);
            let another = take(&places, 2, false).await.unwrap();
            its.pop();
            its.push(take(&places, 1, trusted).await.unwrap());
            drop((its, another));
            let taken = lock(&places.taken);
            assert!(taken.by.is_empty() && taken.of_all == 0, "{taken:?}");
        }
    }

    #[tokio::test]
    async fn all_have_so_many_and_root_finds_one_beside_them() {
        let (places, asked) = (Places::default(), AtomicUsize::new(0));
        let mut all = Vec::new();
        for number in 0..OF_ALL {
            all.push(take(&places, number, false).await.unwrap());
        }
        assert_eq!(take(&places, OF_ALL, false).await.unwrap_err(), Code::Unreachable);
        let root = || {
            asked.fetch_add(1, Ordering::Relaxed);
            std::future::ready(true)
        };
        let mut its = Vec::new();
        for _ in 0..OF_ONE {
            its.push(places.take(name(OF_ALL), "Status", 0, root).await.unwrap());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1, "once for all that is under way");
        drop(all.pop());
        let _last = take(&places, OF_ALL + 1, false).await.unwrap();
        assert_eq!(take(&places, OF_ALL + 2, false).await.unwrap_err(), Code::Unreachable);
    }

    #[tokio::test]
    async fn what_is_long_is_read_of_root_alone_and_what_is_longer_of_nobody() {
        let places = Places::default();
        for (length, anybody, root) in [
            (SHORT, true, true),
            (SHORT + 1, false, true),
            (LONG, false, true),
            (LONG + 1, false, false),
        ] {
            for (trusted, want) in [(false, anybody), (true, root)] {
                let who = || std::future::ready(trusted);
                let got = places.take(name(1), "DomainSeen", length, who).await;
                let got = got.map(drop).map_err(|refusal| refusal.code);
                let want = if want { Ok(()) } else { Err(Code::BadRequest) };
                assert_eq!(got, want, "{length} of {trusted}");
            }
        }
        assert!(lock(&places.taken).by.is_empty());
    }

    #[tokio::test]
    async fn one_long_answer_is_made_at_a_time_and_root_waits_for_none() {
        let places = Places::default();
        let ask = async |number, method, trusted| {
            let who = move || std::future::ready(trusted);
            places.take(name(number), method, 0, who).await.unwrap()
        };
        let [history, objects] = AT_LENGTH;
        for (one, other) in [(history, history), (history, objects), (objects, objects)] {
            let first = ask(1, one, false).await;
            let mut second = std::pin::pin!(ask(2, other, false));
            let moment = Duration::from_millis(1);
            assert!(tokio::time::timeout(moment, second.as_mut()).await.is_err());
            drop(ask(3, other, true).await);
            drop(ask(4, "ListClaims", false).await);
            drop(first);
            drop(second.await);
        }
    }
}
