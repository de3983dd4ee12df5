//! Mediated devices that leave under those who were given them: when their GPU is taken out, or its driver unloaded.

use super::{Machine, Stored};
use crate::ids::{MdevUuid, SliceId};
use crate::state::Phase;

impl Machine {
    /// Notes which of them are no longer there. One that comes later by the same name was not made by us.
    pub(super) fn note_vanished(&mut self) {
        let made = |phase: Phase| matches!(phase, Phase::Prepared | Phase::Attached);
        let given = self.run.assignments.iter().filter(|(_, a)| made(a.phase));
        let given = given.filter_map(|(slice, _)| slice.mdev());
        let seen = &self.seen;
        let there =
            |uuid: &MdevUuid| seen.mdevs.contains_key(uuid) || seen.unread_mdevs.contains(uuid);
        let away = given.filter(|uuid| !there(uuid));
        let away: Vec<_> = away.filter(|uuid| !self.run.vanished.contains(uuid)).collect();
        // A list that cannot be read says nothing of anybody.
        if !away.is_empty() && self.seen.hidden_mdevs().is_some() {
            self.run.vanished.extend(away);
            self.persist(Stored::Runtime);
        }
    }

    pub(super) fn has_vanished(&self, slice: SliceId) -> bool {
        slice.mdev().is_some_and(|uuid| self.run.vanished.contains(&uuid))
    }

    /// It is nobody's any more, or made anew.
    pub(super) fn forget_vanished(&mut self, slice: SliceId) {
        if slice.mdev().is_some_and(|uuid| self.run.vanished.remove(&uuid)) {
            self.persist(Stored::Runtime);
        }
    }
}
