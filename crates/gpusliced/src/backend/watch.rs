//! Tells when no process has a slice open any more. A look goes through all processes of the host, and after a restart all
//! slices of all VMs are to be watched at once: so one look at a time serves every slice that waits for one, and each
//! process is waited for once, whatever it has open.

use super::real::readiness;
use crate::engine::Handle;
use gpuslice_core::errno::Errno;
use gpuslice_core::holders::{self, EachHolders};
use gpuslice_core::ids::SliceId;
use gpuslice_core::machine::Event;
use gpuslice_core::port::HostRead;
use gpuslice_host::process;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinError, JoinSet};

/// First pause before another look where nothing could be told; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

type Watched = Arc<Mutex<HashSet<SliceId>>>;

/// The way to the task that watches.
pub struct Watcher {
    orders: UnboundedSender<SliceId>,
    watched: Watched,
}

impl Watcher {
    /// Starts the task.
    pub fn start(host: impl HostRead + Clone + Send + Sync + 'static, handle: Handle) -> Self {
        let (orders, ordered) = unbounded_channel();
        let watched = Watched::default();
        let (of_task, open, ends) = (Arc::clone(&watched), HashMap::new(), JoinSet::new());
        let task = Task { host, handle, watched: of_task, open, ends };
        tokio::spawn(task.run(ordered));
        Self { orders, watched }
    }

    /// Watches a slice. One that is watched already is looked at once more: who had it open may have closed it and go on.
    pub fn watch(&self, slice: SliceId) {
        if let Ok(mut watched) = self.watched.lock() {
            watched.insert(slice);
        }
        // The task lives as long as the daemon.
        let _ = self.orders.send(slice);
    }
}

struct Task<H> {
    host: H,
    handle: Handle,
    watched: Watched,
    /// What of it each process had open when it was last seen.
    open: HashMap<u32, BTreeSet<SliceId>>,
    /// Ends of these processes.
    ends: JoinSet<u32>,
}

impl<H: HostRead + Clone + Send + Sync + 'static> Task<H> {
    async fn run(mut self, mut ordered: UnboundedReceiver<SliceId>) {
        let (mut due, mut vanished) = (BTreeSet::new(), BTreeSet::new());
        let (mut untold, mut pause) = (BTreeSet::new(), FIRST_PAUSE);
        loop {
            if due.is_empty() {
                vanished.clear();
                tokio::select! {
                    slice = ordered.recv() => match slice {
                        Some(slice) => drop(due.insert(slice)),
                        None => return,
                    },
                    Some(ended) = self.ends.join_next() => self.ended(ended, &mut due),
                    () = tokio::time::sleep(pause), if !untold.is_empty() => {}
                }
                due.append(&mut untold);
            }
            while let Ok(slice) = ordered.try_recv() {
                due.insert(slice);
            }
            while let Some(ended) = self.ends.try_join_next() {
                self.ended(ended, &mut due);
            }
            let mut looked = self.look(&due).await;
            if let Some((slice, errno)) = looked.untold.first_key_value() {
                tracing::warn!("cannot look for holders of {slice}: {errno}");
            }
            for slice in std::mem::take(&mut due) {
                if looked.untold.contains_key(&slice) {
                    untold.insert(slice);
                    continue;
                }
                let holders = looked.found.remove(&slice).unwrap_or_default();
                let mut waits = false;
                for holder in holders {
                    match self.await_end(holder.pid, slice).await {
                        Ok(()) => waits = true,
                        // It has ended since. Whether others have come is to be seen.
                        Err(Errno::ESRCH) if vanished.insert((holder.pid, slice)) => {
                            (waits, _) = (true, due.insert(slice));
                        }
                        Err(errno) => {
                            tracing::warn!(
                                "cannot wait for the end of process {}: {errno}",
                                holder.pid
                            );
                            if errno != Errno::ESRCH {
                                (waits, _) = (true, untold.insert(slice));
                            }
                        }
                    }
                }
                if !waits {
                    self.gone(slice).await;
                }
            }
            let next = if untold.is_empty() { FIRST_PAUSE } else { pause * 2 };
            pause = next.min(LONGEST_PAUSE);
        }
    }

    /// What a process had open that has ended is looked for again, unless it is no longer watched.
    fn ended(&mut self, ended: Result<u32, JoinError>, due: &mut BTreeSet<SliceId>) {
        let had = ended.ok().and_then(|pid| self.open.remove(&pid)).unwrap_or_default();
        if let Ok(watched) = self.watched.lock() {
            due.extend(had.into_iter().filter(|slice| watched.contains(slice)));
        }
    }

    /// Who has which of these slices open. A process that cannot be looked into cannot be waited for either; it is taken as
    /// a holder by whoever clears the slice.
    async fn look(&self, slices: &BTreeSet<SliceId>) -> EachHolders {
        let (host, all) = (self.host.clone(), slices.clone());
        let looked = tokio::task::spawn_blocking(move || holders::find_each(&host, &all));
        looked.await.unwrap_or_else(|_| {
            let untold = slices.iter().map(|slice| (*slice, Errno::EIO)).collect();
            EachHolders { untold, ..EachHolders::default() }
        })
    }

    async fn await_end(&mut self, pid: u32, slice: SliceId) -> Result<(), Errno> {
        if let Some(open) = self.open.get_mut(&pid) {
            open.insert(slice);
            return Ok(());
        }
        let end = readiness(process::watch_pid(pid)?).ok_or(Errno::EMFILE)?;
        // By now the number may be that of another process, which goes on.
        let host = self.host.clone();
        let asked = tokio::task::spawn_blocking(move || holders::has_open(&host, pid, slice));
        if !asked.await.unwrap_or(Err(Errno::EIO))? {
            return Err(Errno::ESRCH);
        }
        self.open.insert(pid, BTreeSet::from([slice]));
        self.ends.spawn(async move {
            // An error here means the descriptor itself is dead: look again.
            let _ = end.readable().await;
            pid
        });
        Ok(())
    }

    async fn gone(&self, slice: SliceId) {
        if let Ok(mut watched) = self.watched.lock() {
            watched.remove(&slice);
        }
        self.handle.happened(Event::HolderGone { slice }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{First, Inbox, Input, channel};
    use gpuslice_core::ids::MdevUuid;
    use gpuslice_core::port::LogLine;
    use gpuslice_host::SysHost;
    use std::ops::Range;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use tempfile::TempDir;
    use uuid::Uuid;

    /// A tree of files that counts how often its processes are listed.
    #[derive(Clone)]
    struct Counted {
        host: SysHost,
        dir: PathBuf,
        looks: Arc<AtomicU32>,
        /// No process is listed.
        blind: Arc<AtomicBool>,
        /// Whoever is found has ended by then, and another process has its number.
        another: Arc<AtomicBool>,
    }

    impl HostRead for Counted {
        fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
            self.looks.fetch_add(u32::from(dir == "/proc"), Ordering::SeqCst);
            if dir == "/proc" && self.blind.load(Ordering::SeqCst) {
                return Err(Errno::EMFILE);
            }
            self.host.list(dir)
        }

        fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
            // What is read last of a holder.
            if file.ends_with("/comm") && self.another.load(Ordering::SeqCst) {
                let descriptors = self.dir.join(file.trim_start_matches('/')).with_file_name("fd");
                std::fs::remove_dir_all(descriptors).unwrap();
            }
            self.host.read(file)
        }

        fn link(&self, path: &str) -> Result<String, Errno> {
            self.host.link(path)
        }

        fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
            self.host.kernel_log()
        }
    }

    fn slice(number: u8) -> SliceId {
        SliceId::Mdev(MdevUuid(Uuid::from_u128(number.into())))
    }

    fn slices(numbers: Range<u8>) -> BTreeSet<SliceId> {
        numbers.map(slice).collect()
    }

    /// Mediated devices, each with a group of its own, and a daemon that watches them.
    struct Host {
        dir: TempDir,
        looks: Arc<AtomicU32>,
        blind: Arc<AtomicBool>,
        another: Arc<AtomicBool>,
        watcher: Watcher,
        inbox: Inbox,
    }

    impl Host {
        fn with(devices: u8) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for number in 0..devices {
                let device = format!("sys/bus/mdev/devices/{}", Uuid::from_u128(number.into()));
                let device = dir.path().join(device);
                std::fs::create_dir_all(&device).unwrap();
                let group = format!("../../../kernel/iommu_groups/{number}");
                symlink(group, device.join("iommu_group")).unwrap();
            }
            let host = SysHost::new(dir.path().to_str().unwrap()).unwrap();
            let (looks, blind) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
            let another = Arc::<AtomicBool>::default();
            let (handle, inbox) = channel();
            let counted = Counted {
                host,
                dir: dir.path().to_owned(),
                looks: Arc::clone(&looks),
                blind: Arc::clone(&blind),
                another: Arc::clone(&another),
            };
            let watcher = Watcher::start(counted, handle);
            Self { dir, looks, blind, another, watcher, inbox }
        }

        /// A process that has these devices open.
        fn process(&self, devices: Range<u8>) -> Child {
            let mut command = Command::new("cat");
            let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            let descriptors = self.dir.path().join(format!("proc/{}/fd", child.id()));
            std::fs::create_dir_all(&descriptors).unwrap();
            for device in devices {
                let node = format!("/dev/vfio/{device}");
                symlink(node, descriptors.join(device.to_string())).unwrap();
            }
            child
        }

        fn ends(&self, mut process: Child) {
            let shown = self.dir.path().join(format!("proc/{}", process.id()));
            std::fs::remove_dir_all(shown).unwrap();
            process.kill().unwrap();
            process.wait().unwrap();
        }

        fn watch(&self, devices: Range<u8>) {
            for slice in slices(devices) {
                self.watcher.watch(slice);
            }
        }

        fn looks(&self) -> u32 {
            self.looks.load(Ordering::SeqCst)
        }

        /// The next slices that nobody holds any more.
        async fn told(&mut self, count: usize) -> BTreeSet<SliceId> {
            let mut gone = BTreeSet::new();
            while gone.len() < count {
                match self.inbox.recv().await {
                    Some(Input::First(First::Event(Event::HolderGone { slice }))) => {
                        gone.insert(slice);
                    }
                    other => panic!("{other:?}"),
                }
            }
            gone
        }
    }

    #[tokio::test]
    async fn one_look_serves_all_slices_of_all_processes() {
        let mut host = Host::with(21);
        let (one, other) = (host.process(0..10), host.process(10..20));
        host.watch(0..21);
        // The last one is nobody's.
        assert_eq!(host.told(1).await, slices(20..21));
        assert_eq!(host.looks(), 1);
        host.ends(one);
        assert_eq!(host.told(10).await, slices(0..10));
        assert_eq!(host.looks(), 2);
        host.ends(other);
        assert_eq!(host.told(10).await, slices(10..20));
        assert_eq!(host.looks(), 3);
    }

    #[tokio::test]
    async fn who_closes_a_slice_and_goes_on_is_seen_when_it_is_watched_again() {
        let mut host = Host::with(2);
        let goes_on = host.process(0..1);
        host.watch(0..2);
        assert_eq!(host.told(1).await, slices(1..2));
        let opened = format!("proc/{}/fd/0", goes_on.id());
        std::fs::remove_file(host.dir.path().join(opened)).unwrap();
        host.watch(0..1);
        assert_eq!(host.told(1).await, slices(0..1));
        host.ends(goes_on);
    }

    #[tokio::test]
    async fn a_process_that_got_the_number_of_a_holder_is_not_waited_for() {
        let mut host = Host::with(1);
        let goes_on = host.process(0..1);
        host.another.store(true, Ordering::SeqCst);
        host.watch(0..1);
        let told = tokio::time::timeout(Duration::from_secs(20), host.told(1)).await;
        assert_eq!(told, Ok(slices(0..1)));
        host.ends(goes_on);
    }

    /// As where the daemon is out of descriptors for a moment.
    #[tokio::test]
    async fn that_nothing_could_be_told_is_no_word_that_nobody_has_it() {
        let mut host = Host::with(2);
        let runs = host.process(0..1);
        host.blind.store(true, Ordering::SeqCst);
        host.watch(0..2);
        let looks_again = async {
            while host.looks() < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), looks_again).await.unwrap();
        host.blind.store(false, Ordering::SeqCst);
        assert_eq!(host.told(1).await, slices(1..2));
        host.ends(runs);
        assert_eq!(host.told(1).await, slices(0..1));
    }

    #[tokio::test]
    async fn a_slice_is_waited_for_until_its_last_holder_has_ended() {
        let mut host = Host::with(3);
        let (one, other) = (host.process(0..1), host.process(0..1));
        host.watch(0..2);
        assert_eq!(host.told(1).await, slices(1..2));
        host.ends(one);
        while host.looks() < 2 {
            tokio::task::yield_now().await;
        }
        // What is told is told in order: nothing of the first one by now.
        host.watch(2..3);
        assert_eq!(host.told(1).await, slices(2..3));
        host.ends(other);
        assert_eq!(host.told(1).await, slices(0..1));
    }
}
