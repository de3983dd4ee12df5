//! What the host offers as it is laid out, and all that a placement looks at.

use super::Machine;
use crate::ids::{MdevTypeId, ParentId, ProfileName};
use crate::mechanism::Offer;
use crate::placement::{Lookup, View};

impl Machine {
    /// What placements look at.
    pub(super) fn view(&self) -> View<'_> {
        View {
            seen: &self.seen,
            offers: self.offers(),
            wedged: &self.run.wedged,
            assignments: &self.run.assignments,
            foreign: &self.run.foreign,
            held: &self.held,
            claims: &self.durable.claims,
            cordons: &self.durable.cordons,
            quarantines: &self.durable.quarantines,
            reshaping: self.being_laid_out(),
            held_back: self.held_back(),
            strategy: self.config.placement,
            lookup: Lookup::default(),
        }
    }

    pub(super) fn offers(&self) -> Vec<Offer> {
        let parents = self.seen.parents();
        parents.flat_map(|parent| self.offers_of(&parent).collect::<Vec<_>>()).collect()
    }

    pub(super) fn offers_of(&self, parent: &ParentId) -> impl Iterator<Item = Offer> {
        let layout = self.layouts.get(parent);
        let mechanisms = self.mechanisms.iter().filter(|m| m.applies(&self.seen, parent));
        mechanisms.flat_map(move |m| m.offers(&self.seen, parent, layout))
    }

    pub(super) fn profile_of(
        &self,
        parent: &ParentId,
        type_id: &MdevTypeId,
    ) -> Option<ProfileName> {
        let mut mechanisms = self.mechanisms.iter().filter(|m| m.applies(&self.seen, parent));
        let layout = self.layouts.get(parent);
        mechanisms.find_map(|m| m.profile_of(&self.seen, parent, layout, type_id))
    }
}
