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

/// Calls of one user, by whichever connections.
const OF_USER: usize = 128;

/// Calls of all users together. For root and the agent there is always room, beside these and their user's.
const OF_ALL: usize = 256;

/// Connections without calls under way of which is remembered whose they are.
const REMEMBERED: usize = 256;

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
    of_user: HashMap<Option<u32>, usize>,
    of_all: usize,
}

/// A connection, with calls under way or remembered.
#[derive(Debug, Default)]
struct Connected {
    calls: usize,
    /// Whose it is, which stays: a name on the bus is one connection's for ever.
    user: Arc<OnceCell<Option<u32>>>,
    /// It is the agent's, where that had to be asked for the calls under way.
    agent: Arc<OnceCell<bool>>,
}

/// One of them.
#[derive(Debug)]
pub struct Place {
    taken: Arc<Mutex<Taken>>,
    by: Option<OwnedUniqueName>,
    user: Arc<OnceCell<Option<u32>>>,
    agent: Arc<OnceCell<bool>>,
    /// It is one of all, and of this user.
    counts: Option<Option<u32>>,
    at_length: Option<OwnedSemaphorePermit>,
}

/// Who calls, as far as it counts here.
pub trait Calls: Send + Sync {
    /// Its user, if that can be told. Asked once for a connection.
    fn user(&self) -> impl Future<Output = Option<u32>> + Send;

    /// Whether it is the agent, which is asked where it matters, and once for all calls under way.
    fn is_agent(&self) -> impl Future<Output = bool> + Send;
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    /// Whether the answer to this method can be megabytes.
    pub fn answers_at_length(method: &str) -> bool {
        AT_LENGTH.contains(&method)
    }

    /// Takes one for a call with so many bytes of arguments.
    pub async fn take(
        &self,
        by: Option<OwnedUniqueName>,
        method: &str,
        length: usize,
        who: &impl Calls,
    ) -> Result<Place, Refusal> {
        if length > LONG {
            return Err(too_long(method, length, LONG));
        }
        let mut place = self.of_one(by)?;
        if length > SHORT && !place.is_trusted(who).await {
            return Err(too_long(method, length, SHORT));
        }
        let user = place.user(who).await;
        if user != Some(0)
            && let Err(full) = place.count(user)
            && !place.is_trusted(who).await
        {
            return Err(full);
        }
        if Self::answers_at_length(method) {
            place.at_length = match Arc::clone(&self.at_length).try_acquire_owned() {
                Ok(only) => Some(only),
                Err(_) if place.is_trusted(who).await => None,
                Err(_) => Arc::clone(&self.at_length).acquire_owned().await.ok(),
            };
        }
        Ok(place)
    }

    fn of_one(&self, by: Option<OwnedUniqueName>) -> Result<Place, Refusal> {
        let mut taken = lock(&self.taken);
        let connected = taken.by.entry(by.clone()).or_default();
        if connected.calls >= OF_ONE {
            let message =
                format!("{OF_ONE} calls of this connection are under way, and no other is begun");
            return Err(Refusal::new(Code::Unreachable, message).hint(hint!("try again")));
        }
        connected.calls += 1;
        let (user, agent) = (Arc::clone(&connected.user), Arc::clone(&connected.agent));
        drop(taken);
        let taken = Arc::clone(&self.taken);
        Ok(Place { taken, by, user, agent, counts: None, at_length: None })
    }
}

impl Place {
    /// Makes it one of all and of its user's.
    fn count(&mut self, user: Option<u32>) -> Result<(), Refusal> {
        let mut taken = lock(&self.taken);
        let full = if taken.of_user.get(&user).is_some_and(|calls| *calls >= OF_USER) {
            format!("{OF_USER} calls of this user are under way, and none is begun beside them")
        } else if taken.of_all >= OF_ALL {
            format!("{OF_ALL} calls are under way, and none is begun beside them but root's")
        } else {
            *taken.of_user.entry(user).or_default() += 1;
            taken.of_all += 1;
            self.counts = Some(user);
            return Ok(());
        };
        Err(Refusal::new(Code::Unreachable, full).hint(hint!("try again; or run it as root")))
    }

    async fn user(&self, who: &impl Calls) -> Option<u32> {
        *self.user.get_or_init(|| who.user()).await
    }

    async fn is_trusted(&self, who: &impl Calls) -> bool {
        self.user(who).await == Some(0) || *self.agent.get_or_init(|| who.is_agent()).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(user) = self.counts {
            taken.of_all -= 1;
            if let Entry::Occupied(mut calls) = taken.of_user.entry(user) {
                *calls.get_mut() -= 1;
                if *calls.get() == 0 {
                    calls.remove();
                }
            }
        }
        if let Some(connected) = taken.by.get_mut(&self.by) {
            connected.calls -= 1;
            if connected.calls == 0 {
                connected.agent = Arc::default();
            }
        }
        if taken.by.len() > REMEMBERED {
            taken.by.retain(|_, connected| connected.calls > 0);
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

    /// A user, who may be the agent's, and how often each was asked.
    #[derive(Default)]
    struct Who {
        user: u32,
        agent: bool,
        asked: [AtomicUsize; 2],
    }

    impl Calls for Who {
        async fn user(&self) -> Option<u32> {
            self.asked[0].fetch_add(1, Ordering::Relaxed);
            Some(self.user)
        }

        async fn is_agent(&self) -> bool {
            self.asked[1].fetch_add(1, Ordering::Relaxed);
            self.agent
        }
    }

    impl Who {
        fn user(user: usize) -> Self {
            Self { user: user.try_into().unwrap(), ..Self::default() }
        }

        fn agent() -> Self {
            Self { user: 7, agent: true, ..Self::default() }
        }

        fn asked(&self) -> [usize; 2] {
            self.asked.each_ref().map(|asked| asked.load(Ordering::Relaxed))
        }
    }

    async fn take(places: &Places, number: usize, who: &Who) -> Result<Place, Refusal> {
        places.take(name(number), "Status", 0, who).await
    }

    fn is_empty(places: &Places) -> bool {
        let taken = lock(&places.taken);
        taken.of_all == 0 && taken.of_user.is_empty() && taken.by.values().all(|by| by.calls == 0)
    }

    #[tokio::test]
    async fn a_connection_has_so_many_and_what_it_gives_back_it_has_again() {
        let places = Places::default();
        for (number, who) in [(1, Who::user(5)), (3, Who::user(0)), (4, Who::agent())] {
            let mut its = Vec::new();
            for _ in 0..OF_ONE {
                its.push(take(&places, number, &who).await.unwrap());
            }
            let full = take(&places, number, &who).await.unwrap_err();
            assert!(full.message.contains("of this connection"), "{full:?}");
            let another = take(&places, 2, &Who::user(6)).await.unwrap();
            its.pop();
            its.push(take(&places, number, &who).await.unwrap());
            drop((its, another));
            assert!(is_empty(&places), "{:?}", lock(&places.taken));
        }
    }

    #[tokio::test]
    async fn a_user_has_so_many_by_whichever_connections_and_leaves_room_for_others() {
        let (places, one) = (Places::default(), Who::user(5));
        let mut its = Vec::new();
        for number in 0..OF_USER {
            its.push(take(&places, number, &one).await.unwrap());
        }
        let full = take(&places, OF_USER, &one).await.unwrap_err();
        assert!(full.message.contains("of this user"), "{full:?}");
        // The agent may be a user with other programs.
        drop(take(&places, OF_USER + 1, &Who { user: 5, ..Who::agent() }).await.unwrap());
        let others = take(&places, OF_USER + 2, &Who::user(6)).await.unwrap();
        its.pop();
        its.push(take(&places, OF_USER, &one).await.unwrap());
        drop((its, others));
        assert!(is_empty(&places), "{:?}", lock(&places.taken));
    }

    #[tokio::test]
    async fn all_have_so_many_and_root_and_the_agent_find_one_beside_them() {
        let places = Places::default();
        let mut all = Vec::new();
        for number in 0..OF_ALL {
            all.push(take(&places, number, &Who::user(number + 1)).await.unwrap());
        }
        let full = take(&places, OF_ALL, &Who::user(OF_ALL + 1)).await.unwrap_err();
        assert!(full.message.contains("but root's"), "{full:?}");
        for (number, who, asked) in
            [(OF_ALL + 1, Who::user(0), [1, 0]), (OF_ALL + 2, Who::agent(), [1, 1])]
        {
            let mut its = Vec::new();
            for _ in 0..OF_ONE {
                its.push(take(&places, number, &who).await.unwrap());
            }
            assert_eq!(who.asked(), asked, "once for all that is under way");
        }
        drop(all.pop());
        let _last = take(&places, OF_ALL + 3, &Who::user(OF_ALL + 3)).await.unwrap();
        assert!(take(&places, OF_ALL + 4, &Who::user(OF_ALL + 4)).await.is_err());
    }

    #[tokio::test]
    async fn whose_a_connection_is_stays_known_and_whether_it_is_the_agent_does_not() {
        let (places, who) = (Places::default(), Who::agent());
        for _ in 0..2 {
            drop(places.take(name(0), "DomainSeen", LONG, &who).await.unwrap());
        }
        assert_eq!(who.asked(), [1, 2]);
        for number in 0..=REMEMBERED {
            drop(take(&places, number, &who).await.unwrap());
        }
        assert!(lock(&places.taken).by.len() <= REMEMBERED);
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
            for (number, who, want) in
                [(1, Who::user(5), anybody), (2, Who::user(0), root), (3, Who::agent(), root)]
            {
                let got = places.take(name(number), "DomainSeen", length, &who).await;
                let got = got.map(drop).map_err(|refusal| refusal.code);
                let want = if want { Ok(()) } else { Err(Code::BadRequest) };
                assert_eq!(got, want, "{length} of {number}");
            }
        }
        assert!(is_empty(&places));
    }

    #[tokio::test]
    async fn one_long_answer_is_made_at_a_time_and_root_waits_for_none() {
        let places = Places::default();
        let ask = async |number, method, user| {
            places.take(name(number), method, 0, &Who::user(user)).await.unwrap()
        };
        let [history, objects] = AT_LENGTH;
        for (one, other) in [(history, history), (history, objects), (objects, objects)] {
            let first = ask(1, one, 5).await;
            let mut second = std::pin::pin!(ask(2, other, 6));
            let moment = Duration::from_millis(1);
            assert!(tokio::time::timeout(moment, second.as_mut()).await.is_err());
            drop(ask(3, other, 0).await);
            drop(ask(4, "ListClaims", 6).await);
            drop(first);
            drop(second.await);
        }
    }
}
