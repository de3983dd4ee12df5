//! The history on disk: a thread of its own writes and reads it, so that no VM waits for a disk. What it has not written
//! when the daemon is killed, the next one finds by comparing the history with the assignments.

use crate::engine::{Handle, Told};
use gpuslice_core::hint;
use gpuslice_core::history::{Ending, Entry, Line, Point, Reader, Wanted};
use gpuslice_core::ids::SliceId;
use gpuslice_core::machine::Event;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::Answer;
use gpuslice_host::state::{Log, StateError};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// Bytes after which the next file is begun.
const LONGEST: u64 = 2 << 20;

/// How many older files are kept.
const KEPT: usize = 4;

/// Lines that wait for a disk that takes none. More than that are forgotten, the oldest first.
const MOST_WAITING: usize = 4096;

/// How long a daemon that stops waits for its last lines to be written.
const LAST: Duration = Duration::from_secs(2);

/// Where the history is.
pub enum Place {
    /// Files.
    Disk(Log),
    /// A simulated host without directories has the one file in memory.
    Memory(Vec<u8>),
}

/// The way to the thread.
#[derive(Debug, Clone)]
pub struct History(Sender<Order>);

enum Order {
    Add(Vec<Line>),
    Read(Wanted, oneshot::Sender<Told>),
    Open(SyncSender<BTreeMap<SliceId, Line>>),
}

impl History {
    /// Starts the thread.
    pub fn start(place: Place, handle: Handle) -> std::io::Result<Self> {
        let (sender, orders) = channel();
        let writer = Writer::new(place, handle);
        std::thread::Builder::new()
            .name("history".to_owned())
            .stack_size(256 << 10)
            .spawn(move || writer.run(&orders))?;
        Ok(Self(sender))
    }

    /// Adds to it. `booted` is when this boot began, where that is known.
    pub fn add(&self, entries: Vec<Entry>, booted: Option<SystemTime>) {
        let now = SystemTime::now();
        let line = |entry: Entry| {
            tell_journal(&entry);
            let past = booted.filter(|_| entry.reason == Some(Ending::Rebooted));
            // A clock that nobody has set yet can be before all that can be written.
            let at = past.unwrap_or(now).max(UNIX_EPOCH);
            let at = humantime::format_rfc3339_millis(at).to_string();
            Line { at, entry }
        };
        // The thread lives as long as the daemon.
        let _ = self.0.send(Order::Add(entries.into_iter().map(line).collect()));
    }

    /// Has it read, and the answer sent.
    pub fn read(&self, wanted: Wanted, answer: oneshot::Sender<Told>) {
        let _ = self.0.send(Order::Read(wanted, answer));
    }

    /// What has begun and not ended.
    pub fn still_open(&self) -> BTreeMap<SliceId, Line> {
        let (answer, open) = sync_channel(1);
        let _ = self.0.send(Order::Open(answer));
        open.recv().unwrap_or_default()
    }

    /// Waits until all is written, or long enough.
    pub fn finish(&self) {
        let (answer, written) = sync_channel(1);
        let _ = self.0.send(Order::Open(answer));
        let _ = written.recv_timeout(LAST);
    }
}

/// The same to the journal, with fields to look for: `journalctl GPUSLICE_DOMAIN=win11`.
fn tell_journal(entry: &Entry) {
    let tenure = &entry.tenure;
    let why = entry.reason.map(Ending::as_str);
    let (vm, slice, parent) = (&tenure.owner_name, tenure.slice, &tenure.parent);
    let text = match entry.event {
        Point::Begin | Point::Held => format!("{vm} has {slice} of {parent}"),
        Point::End => {
            format!("{vm} has {slice} of {parent} no longer: {}", why.unwrap_or_default())
        }
    };
    tracing::info!(
        gpuslice_event = if entry.event == Point::End { "end" } else { "begin" },
        gpuslice_domain = vm,
        gpuslice_owner = %tenure.owner,
        gpuslice_claim = tenure.claim.as_ref().map(tracing::field::display),
        gpuslice_slice = %slice,
        gpuslice_parent = %parent,
        gpuslice_profile = tenure.profile.as_ref().map(tracing::field::display),
        gpuslice_reason = why,
        "{text}"
    );
}

struct Writer {
    place: Place,
    /// Not written yet.
    waiting: Vec<Line>,
    damaged: usize,
    trouble: Option<String>,
    /// Bytes that the newest file began with.
    head: u64,
    handle: Handle,
}

impl Writer {
    fn new(place: Place, handle: Handle) -> Self {
        Self { place, waiting: Vec::new(), damaged: 0, trouble: None, head: 0, handle }
    }

    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            let mut next = Some(order);
            // One write for all that has come by now.
            while let Some(Order::Add(lines)) = next {
                self.waiting.extend(lines);
                next = orders.try_recv().ok();
            }
            self.write();
            match next {
                Some(Order::Read(wanted, answer)) => {
                    // Whoever asked may have gone.
                    let _ = answer.send(self.read(wanted).into());
                }
                Some(Order::Open(answer)) => {
                    let _ = answer.send(self.still_open());
                }
                Some(Order::Add(_)) | None => {}
            }
        }
    }

    fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let text: String = self.waiting.iter().filter_map(|line| line.print().ok()).collect();
        match self.place.add(&text) {
            Ok(()) => {
                self.waiting.clear();
                // What goes on may itself be longer than a file: each line would push out what is over.
                let longest = LONGEST.max(self.head.saturating_mul(2));
                let long = self.place.length() > longest;
                let turned = if long { self.turn() } else { Ok(()) };
                self.now(turned.err());
            }
            Err(error) => {
                let more = self.waiting.len().saturating_sub(MOST_WAITING);
                self.waiting.drain(..more);
                self.now(Some(error));
            }
        }
    }

    /// Begins the next file with what goes on, so that each file alone tells both ends of what ended in it.
    fn turn(&mut self) -> Result<(), StateError> {
        let mut reader = Reader::new(nobody());
        reader.read(&self.place.newest()?);
        let held = |line: Line| Line { entry: Entry { event: Point::Held, ..line.entry }, ..line };
        let held = reader.open().into_values().map(held);
        let head: String = held.filter_map(|line| line.print().ok()).collect();
        self.place.begin_next(&head)?;
        self.head = self.place.length();
        Ok(())
    }

    /// Says whether it can be written, when that has changed.
    fn now(&mut self, error: Option<StateError>) {
        let trouble = error.map(|error| error.to_string());
        if trouble == self.trouble {
            return;
        }
        match &trouble {
            Some(why) => tracing::error!("the history cannot be written: {why}"),
            None => tracing::info!("the history is written again"),
        }
        self.trouble.clone_from(&trouble);
        self.handle.happened_elsewhere(Event::History(trouble));
    }

    fn still_open(&mut self) -> BTreeMap<SliceId, Line> {
        let found = match self.place.open() {
            Ok(found) => found,
            Err(error) => {
                self.now(Some(error));
                return BTreeMap::new();
            }
        };
        if !found.torn.is_empty() {
            let torn = String::from_utf8_lossy(&found.torn);
            tracing::warn!("the history's last line was cut short and is dropped: {torn:?}");
        }
        let mut reader = Reader::new(nobody());
        reader.read(&found.lines);
        if reader.damaged() > self.damaged {
            self.damaged = reader.damaged();
            tracing::error!("{} lines of the history are damaged and left out", self.damaged);
        }
        let mut open = reader.open();
        for line in &self.waiting {
            let slice = line.entry.tenure.slice;
            match line.entry.event {
                Point::End => drop(open.remove(&slice)),
                Point::Begin | Point::Held => drop(open.insert(slice, line.clone())),
            }
        }
        open
    }

    fn read(&self, wanted: Wanted) -> Result<Answer, Refusal> {
        let mut reader = Reader::new(wanted);
        let read = self.place.each(|file| reader.read(file));
        if let Err(error) = read {
            let refusal = Refusal::new(Code::StateUnwritable, "the history cannot be read");
            return Err(refusal
                .because(error.to_string())
                .hint(hint!("fix permissions of /var/lib/gpuslice, then the same again")));
        }
        let waiting: String = self.waiting.iter().filter_map(|line| line.print().ok()).collect();
        reader.read(waiting.as_bytes());
        if reader.damaged() > 0 {
            tracing::warn!("{} lines of the history are damaged and left out", reader.damaged());
        }
        Ok(Answer::History { rows: reader.rows() })
    }
}

/// No tenure's name: for who looks at what goes on alone, rows are only in the way.
fn nobody() -> Wanted {
    Wanted { about: Some(String::new()), since: None }
}

impl Place {
    fn open(&mut self) -> Result<gpuslice_host::state::Found, StateError> {
        match self {
            Self::Disk(log) => log.open(),
            Self::Memory(text) => {
                Ok(gpuslice_host::state::Found { lines: text.clone(), torn: Vec::new() })
            }
        }
    }

    fn add(&mut self, text: &str) -> Result<(), StateError> {
        match self {
            Self::Disk(log) => log.add(text)?,
            Self::Memory(lines) => lines.extend_from_slice(text.as_bytes()),
        }
        Ok(())
    }

    fn length(&self) -> u64 {
        match self {
            Self::Disk(log) => log.length(),
            Self::Memory(lines) => lines.len() as u64,
        }
    }

    fn newest(&self) -> Result<Vec<u8>, StateError> {
        match self {
            Self::Disk(log) => log.numbers()?.last().map_or(Ok(Vec::new()), |n| log.read(*n)),
            Self::Memory(lines) => Ok(lines.clone()),
        }
    }

    fn begin_next(&mut self, head: &str) -> Result<(), StateError> {
        match self {
            Self::Disk(log) => log.begin_next(head, KEPT)?,
            Self::Memory(lines) => *lines = head.as_bytes().to_vec(),
        }
        Ok(())
    }

    fn each(&self, mut read: impl FnMut(&[u8])) -> Result<(), StateError> {
        match self {
            Self::Disk(log) => {
                for number in log.numbers()? {
                    read(&log.read(number)?);
                }
            }
            Self::Memory(lines) => read(lines),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuslice_core::history::Tenure;
    use gpuslice_core::ids::{BootId, Owner};
    use gpuslice_host::state::StateDir;
    use uuid::Uuid;

    fn line(at: usize, event: Point, vf: &str, owner: u32) -> Line {
        let tenure = Tenure {
            slice: vf.parse().unwrap(),
            parent: "0000:41:00.0".parse().unwrap(),
            pf: None,
            model: None,
            serial: None,
            profile: Some("amd-v620-vf4".parse().unwrap()),
            owner: Owner::Vmid(owner),
            owner_name: format!("vm{owner}"),
            claim: Some("gpu0".parse().unwrap()),
            index: 0,
        };
        let reason = (event == Point::End).then_some(Ending::Stopped);
        let entry = Entry { event, reason, boot: BootId(Uuid::nil()), tenure };
        Line { at: format!("{at:08}"), entry }
    }

    fn rows(writer: &Writer, about: &str) -> Vec<(Option<String>, Option<String>)> {
        match writer.read(Wanted { about: Some(about.to_owned()), since: None }) {
            Ok(Answer::History { rows }) => {
                rows.into_iter().map(|row| (row.from, row.to)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn on_disk(dir: &tempfile::TempDir) -> Writer {
        let state = StateDir::open(dir.path().join("state")).unwrap();
        let (handle, _inbox) = crate::engine::channel();
        Writer::new(Place::Disk(state.log("history").unwrap()), handle)
    }

    #[test]
    fn what_goes_on_outlives_the_files_in_which_it_began() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = on_disk(&dir);
        writer.waiting.push(line(0, Point::Begin, "vf:0000:41:00.4", 7));
        let mut at = 0;
        let files = |writer: &Writer| match &writer.place {
            Place::Disk(log) => log.numbers().unwrap(),
            Place::Memory(_) => Vec::new(),
        };
        while files(&writer).first().is_none_or(|first| *first < 3) {
            for _ in 0..2000 {
                at += 2;
                writer.waiting.push(line(at, Point::Begin, "vf:0000:41:00.5", 8));
                writer.waiting.push(line(at + 1, Point::End, "vf:0000:41:00.5", 8));
            }
            writer.write();
            assert_eq!((writer.waiting.len(), &writer.trouble), (0, &None));
        }
        assert_eq!(files(&writer).len(), KEPT + 1);
        // Its begin is in a file that is gone, and told all the same, once.
        assert_eq!(rows(&writer, "vm7"), [(Some("00000000".to_owned()), None)]);
        let open = writer.still_open();
        assert_eq!(open.keys().map(ToString::to_string).collect::<Vec<_>>(), ["vf:0000:41:00.4"]);
        writer.waiting.push(line(at + 2, Point::End, "vf:0000:41:00.4", 7));
        writer.write();
        let end = format!("{:08}", at + 2);
        assert_eq!(rows(&writer, "vm7"), [(Some("00000000".to_owned()), Some(end))]);
        let others = rows(&writer, "vm8");
        assert!(others.len() > 2000 && others.iter().all(|(from, to)| from < to && to.is_some()));
    }

    /// Those that go on are more than a file is long.
    #[test]
    fn what_is_over_is_there_beside_any_number_of_those_that_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = on_disk(&dir);
        writer.waiting.push(line(0, Point::Begin, "vf:0000:41:00.4", 7));
        writer.waiting.push(line(1, Point::End, "vf:0000:41:00.4", 7));
        for number in 0..12_000 {
            let vf = format!("vf:{:04x}:{:02x}:00.1", 1 + number / 256, number % 256);
            writer.waiting.push(line(2, Point::Begin, &vf, 9));
        }
        writer.write();
        assert!(writer.head > LONGEST);
        for at in 0..10 {
            writer.waiting.push(line(3 + 2 * at, Point::Begin, "vf:0000:41:00.5", 8));
            writer.waiting.push(line(4 + 2 * at, Point::End, "vf:0000:41:00.5", 8));
            writer.write();
        }
        assert_eq!((rows(&writer, "vm7").len(), rows(&writer, "vm8").len()), (1, 10));
        assert_eq!(writer.still_open().len(), 12_000);
    }
}
