//! Who had which slice from when to when, and why it ended. The record is lines of JSON that are only ever added to;
//! this module makes tenures of them again. A line that is cut short or damaged is counted, never guessed at.

use crate::ids::{BootId, ClaimKey, ClaimName, Owner, ParentId, ProfileName, SliceId};
use crate::request::HistoryRow;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The time in which one owner has one slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// Of which slice.
    pub slice: SliceId,
    /// The device that yields it.
    pub parent: ParentId,
    /// Of a VF that makes mediated devices: the GPU that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pf: Option<ParentId>,
    /// Our word for the device's product, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The device's serial number, or the id that its driver shows, if it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What the slice was asked for as; absent where nobody asked us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileName>,
    /// Whose.
    pub owner: Owner,
    /// The owner's name then.
    pub owner_name: String,
    /// By which claim; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimName>,
    /// Which of the claim's slices.
    #[serde(default)]
    pub index: u32,
}

impl Tenure {
    /// Whether it is this owner's, by this claim.
    pub fn is_of(&self, owner: &Owner, claim: Option<&ClaimName>, index: u32) -> bool {
        self.owner == *owner && self.claim.as_ref() == claim && self.index == index
    }

    fn same_as(&self, other: &Self) -> bool {
        other.is_of(&self.owner, self.claim.as_ref(), self.index)
    }

    /// The claim by its full name.
    pub fn key(&self) -> Option<ClaimKey> {
        let name = self.claim.clone()?;
        Some(ClaimKey { owner: self.owner.clone(), name })
    }
}

/// Why a tenure ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The VM stopped.
    Stopped,
    /// The VM went to another host and runs there.
    Migrated,
    /// It was prepared for a VM that never ran.
    StartFailed,
    /// It was unplugged from the VM that ran.
    Detached,
    /// A person ended the claim by force.
    Released,
    /// No process held it any more, and nobody had told.
    Vanished,
    /// The VM was started anew, and nobody had told that it stopped.
    StartedAgain,
    /// The device was not on the host any more when it was given back.
    GpuGone,
    /// The host was rebooted or lost its power. The time is that at which the next boot began.
    Rebooted,
    /// It was taken for that owner's, and was not.
    Mistaken,
    /// Somebody else was seen to have it.
    TakenOver,
    /// It was over when a daemon looked, and no record says how.
    Unknown,
}

impl Ending {
    /// The word, as it is recorded.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Migrated => "migrated",
            Self::StartFailed => "start-failed",
            Self::Detached => "detached",
            Self::Released => "released",
            Self::Vanished => "vanished",
            Self::StartedAgain => "started-again",
            Self::GpuGone => "gpu-gone",
            Self::Rebooted => "rebooted",
            Self::Mistaken => "mistaken",
            Self::TakenOver => "taken-over",
            Self::Unknown => "unknown",
        }
    }
}

/// What a line says of a tenure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// It began.
    Begin,
    /// It began earlier, at the time given, and went on when this file was begun.
    Held,
    /// It ended.
    End,
}

/// What is to be recorded. The time comes to it at the edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which end of it.
    pub event: Point,
    /// Why, at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Ending>,
    /// The boot in which it was recorded.
    pub boot: BootId,
    /// Of whom and what.
    #[serde(flatten)]
    pub tenure: Tenure,
}

/// A line of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// RFC 3339 in UTC with milliseconds, so that later times are greater texts.
    pub at: String,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

impl Line {
    /// As it is written, with its line feed.
    ///
    /// # Errors
    /// Never for this type, whose map keys are all texts; the signature is the serialiser's.
    pub fn print(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|text| text + "\n")
    }
}

/// Bytes of a file up to the end of its last whole line: what follows was being written when the power went.
pub fn whole(file: &[u8]) -> usize {
    file.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

/// Whose tenures are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only of this owner (name or id), claim, slice or device.
    pub about: Option<String>,
    /// Only what lasted until then or longer.
    pub since: Option<String>,
}

impl Wanted {
    fn about(&self, tenure: &Tenure) -> bool {
        let Some(about) = &self.about else { return true };
        let claim = || tenure.key().map(|key| key.to_string());
        let named = || Some(format!("{}/{}", tenure.owner_name, tenure.claim.as_ref()?));
        *about == tenure.owner_name
            || *about == tenure.owner.to_string()
            || tenure.slice.is_called(about)
            || *about == tenure.parent.to_string()
            || tenure.pf.as_ref().is_some_and(|pf| *about == pf.to_string())
            || tenure.serial.as_ref() == Some(about)
            || claim().as_ref() == Some(about)
            || named().as_ref() == Some(about)
    }

    fn lasted(&self, until: Option<&str>) -> bool {
        match (&self.since, until) {
            (Some(since), Some(until)) => until >= since.as_str(),
            _ => true,
        }
    }
}

/// Reads files of the record, oldest first.
#[derive(Debug, Default)]
pub struct Reader {
    wanted: Wanted,
    open: BTreeMap<SliceId, Line>,
    rows: Vec<HistoryRow>,
    damaged: usize,
}

impl Reader {
    /// Keeps what is wanted.
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Reads one file.
    pub fn read(&mut self, file: &[u8]) {
        for line in file.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => self.take(line),
                Err(_) => self.damaged += 1,
            }
        }
    }

    fn take(&mut self, line: Line) {
        let slice = line.entry.tenure.slice;
        let before = self.open.remove(&slice);
        let same = before.as_ref().is_some_and(|b| b.entry.tenure.same_as(&line.entry.tenure));
        match line.entry.event {
            Point::Begin | Point::Held => {
                let line = match before {
                    // A daemon that could not know that it had recorded it does so again.
                    Some(before) if same => before,
                    Some(other) => {
                        self.row(other, Some((line.at.clone(), Ending::Unknown)));
                        line
                    }
                    None => line,
                };
                self.open.insert(slice, line);
            }
            Point::End => {
                let why = line.entry.reason.unwrap_or(Ending::Unknown);
                match before {
                    Some(before) if same => self.row(before, Some((line.at, why))),
                    other => {
                        if let Some(other) = other {
                            self.row(other, Some((line.at.clone(), Ending::Unknown)));
                        }
                        let (at, tenure) = (line.at, line.entry.tenure);
                        self.keep(None, tenure, Some((at, why)));
                    }
                }
            }
        }
    }

    fn row(&mut self, begin: Line, end: Option<(String, Ending)>) {
        self.keep(Some(begin.at), begin.entry.tenure, end);
    }

    fn keep(&mut self, from: Option<String>, tenure: Tenure, end: Option<(String, Ending)>) {
        let (to, reason) = end.unzip();
        if !self.wanted.about(&tenure) || !self.wanted.lasted(to.as_deref()) {
            return;
        }
        let claim = tenure.key();
        let Tenure { slice, parent, pf, model, serial, profile, owner, owner_name, index, .. } =
            tenure;
        self.rows.push(HistoryRow {
            from,
            to,
            reason: reason.map(|why| why.as_str().to_owned()),
            owner,
            owner_name,
            claim,
            index,
            slice,
            parent,
            pf,
            model,
            serial,
            profile,
        });
    }

    /// Lines that are no lines of this record.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// What has begun and not ended.
    pub fn open(self) -> BTreeMap<SliceId, Line> {
        self.open
    }

    /// What was wanted, in the order in which it began; what goes on is among it.
    pub fn rows(mut self) -> Vec<HistoryRow> {
        for (_, line) in std::mem::take(&mut self.open) {
            self.row(line, None);
        }
        self.rows.sort_by(|a, b| a.from.cmp(&b.from));
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: &str, event: Point, owner: u32, reason: Option<Ending>) -> Line {
        let tenure = Tenure {
            slice: "vf:0000:41:00.4".parse().unwrap(),
            parent: "0000:41:00.0".parse().unwrap(),
            pf: None,
            model: Some("mi300x".to_owned()),
            serial: None,
            profile: Some("amd-74a1-vf8".parse().unwrap()),
            owner: Owner::Vmid(owner),
            owner_name: format!("vm{owner}"),
            claim: Some("gpu0".parse().unwrap()),
            index: 0,
        };
        let boot = BootId(uuid::Uuid::from_u128(1));
        Line { at: at.to_owned(), entry: Entry { event, reason, boot, tenure } }
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|line| line.print().unwrap()).collect()
    }

    fn rows(files: &[&str], wanted: Wanted) -> Vec<HistoryRow> {
        let mut reader = Reader::new(wanted);
        for file in files {
            reader.read(file.as_bytes());
        }
        assert_eq!(reader.damaged(), 0);
        reader.rows()
    }

    type Span<'r> = (&'r str, Option<&'r str>, Option<&'r str>, Option<&'r str>);

    fn span(row: &HistoryRow) -> Span<'_> {
        (&row.owner_name, row.from.as_deref(), row.to.as_deref(), row.reason.as_deref())
    }

    fn spans(rows: &[HistoryRow]) -> Vec<Span<'_>> {
        rows.iter().map(span).collect()
    }

    #[test]
    fn a_line_reads_as_it_was_written_and_on_one_line() {
        let line = line("t1", Point::End, 7, Some(Ending::Stopped));
        let printed = line.print().unwrap();
        assert_eq!(printed.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<Line>(&printed).unwrap(), line);
    }

    #[test]
    fn tenures_are_made_of_their_ends() {
        let file = text(&[
            line("t1", Point::Begin, 7, None),
            line("t2", Point::End, 7, Some(Ending::Stopped)),
            line("t3", Point::Begin, 8, None),
        ]);
        let all = rows(&[&file], Wanted::default());
        let want =
            [("vm7", Some("t1"), Some("t2"), Some("stopped")), ("vm8", Some("t3"), None, None)];
        assert_eq!(spans(&all), want);
        for about in ["vm8", "vmid:8", "vmid:8/gpu0", "vm8/gpu0"] {
            let wanted = Wanted { about: Some(about.to_owned()), since: None };
            assert_eq!(spans(&rows(&[&file], wanted)), want[1..], "{about}");
        }
        for about in ["vf:0000:41:00.4", "0000:41:00.4", "vf:41:00.4", "0000:41:00.0"] {
            let wanted = Wanted { about: Some(about.to_owned()), since: None };
            assert_eq!(rows(&[&file], wanted).len(), 2, "{about}");
        }
        let late = Wanted { about: None, since: Some("t2+".to_owned()) };
        assert_eq!(spans(&rows(&[&file], late)), want[1..]);
    }

    #[test]
    fn what_goes_on_is_carried_into_the_next_file() {
        let first = text(&[line("t1", Point::Begin, 7, None)]);
        let second = text(&[
            line("t1", Point::Held, 7, None),
            line("t5", Point::End, 7, Some(Ending::Stopped)),
        ]);
        let want = [("vm7", Some("t1"), Some("t5"), Some("stopped"))];
        assert_eq!(spans(&rows(&[&first, &second], Wanted::default())), want);
        assert_eq!(spans(&rows(&[&second], Wanted::default())), want);
    }

    #[test]
    fn a_begin_that_is_recorded_twice_is_one() {
        let begin = |at| line(at, Point::Begin, 7, None);
        let end = line("t3", Point::End, 7, Some(Ending::Detached));
        let file = text(&[begin("t1"), begin("t2"), end]);
        let want = [("vm7", Some("t1"), Some("t3"), Some("detached"))];
        assert_eq!(spans(&rows(&[&file], Wanted::default())), want);
    }

    #[test]
    fn an_end_that_is_missing_is_made_up_for_and_said_to_be_unknown() {
        let file = text(&[
            line("t1", Point::Begin, 7, None),
            line("t2", Point::Begin, 8, None),
            line("t3", Point::End, 9, Some(Ending::Stopped)),
        ]);
        let want = [
            ("vm9", None, Some("t3"), Some("stopped")),
            ("vm7", Some("t1"), Some("t2"), Some("unknown")),
            ("vm8", Some("t2"), Some("t3"), Some("unknown")),
        ];
        assert_eq!(spans(&rows(&[&file], Wanted::default())), want);
    }

    #[test]
    fn cut_at_every_byte_only_the_last_line_is_lost() {
        let first = text(&[line("t1", Point::Begin, 7, None)]);
        let file = first.clone() + &text(&[line("t2", Point::End, 7, Some(Ending::Stopped))]);
        for cut in first.len()..file.len() {
            let cut = &file.as_bytes()[..cut];
            assert_eq!(whole(cut), first.len());
            let mut reader = Reader::default();
            reader.read(&cut[..whole(cut)]);
            assert_eq!((reader.damaged(), reader.open().len()), (0, 1));
        }
        assert_eq!(whole(b"torn"), 0);
    }

    #[test]
    fn a_damaged_line_is_counted_and_the_others_are_read() {
        let file = text(&[line("t1", Point::Begin, 7, None)])
            + "\0\0\0\n{\"at\":\n"
            + &text(&[line("t2", Point::End, 7, Some(Ending::Stopped))]);
        let mut reader = Reader::default();
        reader.read(file.as_bytes());
        assert_eq!(reader.damaged(), 2);
        assert_eq!(reader.rows().len(), 1);
    }
}
