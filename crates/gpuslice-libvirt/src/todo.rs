//! What is still to be done, folded: however many events came while libvirt or the daemon was slow, each domain is
//! looked at once. Pure.

use crate::link::Notice;
use gpuslice_core::request::DueStart;
use gpuslice_core::state::OnlyIf;
use std::collections::{BTreeSet, VecDeque};
use tokio::time::Instant;
use uuid::Uuid;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Tell the daemon that a domain is undefined.
    Gone(Uuid),
    /// List all domains and look at each.
    LookAtAll,
    /// Look at one.
    Look(Uuid),
    /// Ask the daemon what it needs done.
    AskForWork,
    /// Start a domain that was refused.
    Start {
        /// Which.
        due: DueStart,
        /// From when on that is too late.
        until: Instant,
    },
}

impl Step {
    /// What is tried in its place some time later. A domain that was gone may be defined again by then, and looked at: a look
    /// tells of either, and the end of the one before must not be what is told last.
    pub fn later(self) -> Self {
        match self {
            Self::Gone(uuid) => Self::Look(uuid),
            other => other,
        }
    }
}

/// Everything to do.
#[derive(Debug, Default)]
pub struct Todo {
    gone: BTreeSet<Uuid>,
    all: bool,
    look: BTreeSet<Uuid>,
    work: bool,
    start: VecDeque<(DueStart, Instant)>,
}

impl Todo {
    /// After connecting to libvirt or to the daemon: everything may have changed meanwhile.
    pub fn everything(&mut self) {
        self.all = true;
        self.work = true;
    }

    /// The daemon has something to do for us.
    pub fn work(&mut self) {
        self.work = true;
    }

    /// What libvirt said of a domain.
    pub fn notice(&mut self, notice: &Notice) {
        match notice {
            Notice::Look(uuid) => {
                self.look.insert(*uuid);
            }
            Notice::Gone(uuid) => {
                self.look.remove(uuid);
                self.gone.insert(*uuid);
            }
            Notice::Started(uuid) => {
                self.not_ours_to_start(*uuid);
                self.look.insert(*uuid);
            }
            Notice::Comes(uuid) => self.not_ours_to_start(*uuid),
            Notice::Closed { .. } => {}
        }
    }

    /// It may have stopped again by its turn, and not to be started by us.
    fn not_ours_to_start(&mut self, domain: Uuid) {
        self.start.retain(|(due, _)| due.domain != domain);
    }

    /// Domains that were undefined while no one listened.
    pub fn gone(&mut self, domains: impl IntoIterator<Item = Uuid>) {
        self.gone.extend(domains);
    }

    /// Domains to look at.
    pub fn look(&mut self, domains: impl IntoIterator<Item = Uuid>) {
        self.look.extend(domains);
    }

    /// Domains to start by now, in this order, behind those that wait already. One of these that is no longer among them is
    /// started no more, unless it is told of once.
    pub fn start(&mut self, all: &[DueStart], until: Instant) {
        let once = |due: &DueStart| due.only == Some(OnlyIf::Marked);
        self.start.retain(|(due, _)| once(due) || all.contains(due));
        for due in all {
            if !self.start.iter().any(|(other, _)| other.domain == due.domain) {
                self.start.push_back((*due, until));
            }
        }
    }

    /// The next thing to do. Ends come before looks, because a domain may have been defined anew since; starts come
    /// last, because a domain must carry its devices first.
    pub fn take(&mut self) -> Option<Step> {
        if let Some(uuid) = self.gone.pop_first() {
            return Some(Step::Gone(uuid));
        }
        if std::mem::take(&mut self.all) {
            return Some(Step::LookAtAll);
        }
        if let Some(uuid) = self.look.pop_first() {
            return Some(Step::Look(uuid));
        }
        if std::mem::take(&mut self.work) {
            return Some(Step::AskForWork);
        }
        self.start.pop_front().map(|(due, until)| Step::Start { due, until })
    }

    /// Puts a step back that could not be done.
    pub fn again(&mut self, step: &Step) {
        match *step {
            Step::Gone(uuid) => {
                self.gone.insert(uuid);
            }
            Step::LookAtAll => self.all = true,
            Step::Look(uuid) => {
                self.look.insert(uuid);
            }
            Step::AskForWork => self.work = true,
            Step::Start { due, until } => self.start.push_front((due, until)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn all(todo: &mut Todo) -> Vec<Step> {
        std::iter::from_fn(|| todo.take()).collect()
    }

    #[test]
    fn events_fold_and_starts_come_last_in_order() {
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        let mut todo = Todo::default();
        let until = Instant::now();
        let due = |domain| DueStart { domain, only: None };
        todo.start(&[c, a].map(due), until);
        todo.start(&[b, c, a].map(due), until);
        todo.work();
        todo.notice(&Notice::Look(a));
        todo.notice(&Notice::Look(b));
        todo.notice(&Notice::Look(b));
        todo.notice(&Notice::Gone(b));
        todo.notice(&Notice::Gone(c));
        todo.notice(&Notice::Look(c));
        assert_eq!(
            all(&mut todo),
            [
                Step::Gone(b),
                Step::Gone(c),
                Step::Look(a),
                Step::Look(c),
                Step::AskForWork,
                Step::Start { due: due(c), until },
                Step::Start { due: due(a), until },
                Step::Start { due: due(b), until },
            ]
        );
        assert_eq!(todo.take(), None);
    }

    #[test]
    fn what_is_put_back_comes_again() {
        let a = Uuid::from_u128(1);
        let b = Uuid::from_u128(2);
        for step in [Step::Gone(a), Step::LookAtAll, Step::Look(a), Step::AskForWork] {
            let mut todo = Todo::default();
            todo.again(&step);
            assert_eq!(all(&mut todo), [step]);
        }
        let mut todo = Todo::default();
        let until = Instant::now();
        let start = |domain| DueStart { domain, only: Some(OnlyIf::Marked) };
        todo.start(&[a, b].map(start), until);
        let first = todo.take().unwrap();
        todo.again(&first);
        let start = |domain| Step::Start { due: start(domain), until };
        assert_eq!(all(&mut todo), [start(a), start(b)]);
    }

    #[test]
    fn what_is_not_to_be_started_any_more_is_not() {
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        let (until, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let due = |domain, only| DueStart { domain, only };
        let (saved, marked) = (due(b, Some(OnlyIf::Saved)), due(c, Some(OnlyIf::Marked)));
        let mut todo = Todo::default();
        todo.start(&[due(a, None), saved, marked], until);
        // The daemon says the last one once.
        todo.start(&[saved], later);
        let start = |due| Step::Start { due, until };
        assert_eq!(all(&mut todo), [start(saved), start(marked)]);
        todo.start(&[due(a, None), saved, marked], until);
        todo.notice(&Notice::Started(b));
        todo.notice(&Notice::Comes(c));
        // What makes its slices is to be noted; of what comes only when it has come.
        assert_eq!(all(&mut todo), [Step::Look(b), start(due(a, None))]);
    }

    #[test]
    fn an_end_that_is_told_late_is_looked_at_first() {
        let a = Uuid::from_u128(1);
        assert_eq!(Step::Gone(a).later(), Step::Look(a));
        assert_eq!(Step::LookAtAll.later(), Step::LookAtAll);
    }

    #[test]
    fn a_connection_that_closes_is_no_work() {
        let mut todo = Todo::default();
        todo.notice(&Notice::Closed { connection: 1, reason: "" });
        assert_eq!(todo.take(), None);
    }
}
