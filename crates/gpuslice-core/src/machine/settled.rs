//! What is still to come, who waits for it, and what a start is told that is refused before it has come.

use super::{Effect, Machine, RequestId, Timer};
use crate::hint;
use crate::ids::{ParentId, ProfileName};
use crate::layout;
use crate::refusal::{Code, Refusal};
use crate::request::Answer;
use std::collections::BTreeSet;

impl Machine {
    /// What is still to come; empty when settled.
    pub(super) fn waiting_for(&self) -> Vec<String> {
        self.waiting_with(&|_| true)
    }

    /// The same, with those alone of the devices that are not ready.
    fn waiting_with(&self, not_ready: &dyn Fn(&ParentId) -> bool) -> Vec<String> {
        if !self.observed {
            return vec!["the first look at the host".to_owned()];
        }
        let mut waiting = Vec::new();
        for (parent, layout) in &self.layouts {
            let given_up = self.durable.quarantines.contains_key(parent) || self.given_away(parent);
            let busy = self.reshaping(parent);
            if !given_up && (busy || !self.realised(parent, layout) && !self.drifted(parent)) {
                let what = match busy {
                    false if self.between_drivers(parent) => "a driver",
                    false if self.looks.awaits_types(parent) => "types for its VFs",
                    _ => "its layout",
                };
                waiting.push(format!("{parent} to get {what} ({layout})"));
            }
        }
        let here = |device: &&ParentId| self.seen.has_parent(device) && not_ready(device);
        waiting.extend(self.all_not_ready().filter(here).map(super::ready::awaited));
        let absent = self.durable.expected.keys().filter(|p| !self.seen.has_parent(p));
        waiting.extend(absent.map(|parent| format!("{parent} to appear")));
        let unmet = layout::resolve(&self.durable.rules, &self.seen).unmet;
        let exact = unmet.iter().filter_map(|r| r.matches.address).map(ParentId::Pci);
        let whole = |p: &ParentId| p.pci().is_some_and(|a| self.seen.whole.contains_key(&a));
        let unknown = exact.filter(|p| !self.durable.expected.contains_key(p) && !whole(p));
        waiting.extend(unknown.map(|parent| format!("{parent} to appear")));
        waiting
    }

    pub(super) fn settled(&self) -> bool {
        self.waiting_for().is_empty()
    }

    /// What people wait for: what refused starts lack, and what is being parked as far as there is room. No other start is kept
    /// waiting for that.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let mut unsettled = self.waiting_for();
        let of_starts: BTreeSet<&ParentId> = self.lacked_by_starts().collect();
        unsettled.extend(of_starts.into_iter().map(|parent| format!("{parent} to appear")));
        let parking = self.parking_on();
        unsettled.extend(parking.map(|device| format!("what is parked on {device}")));
        unsettled
    }

    /// Answers those who wait, when it has come to be so.
    pub(super) fn tell_settled(&mut self) {
        let settled = self.settled();
        let lack = self.lacked_by_starts().next().is_some();
        if settled && !lack && !self.parking_anywhere() {
            for request in std::mem::take(&mut self.waiting) {
                self.push(Effect::Disarm { timer: Timer::Settle(request) });
                let message = "settled".to_owned();
                let outcome = Ok(Answer::Done { changed: false, message });
                self.push(Effect::Answer { request, outcome });
            }
        }
        if settled == self.was_settled {
            return;
        }
        self.was_settled = settled;
        self.note("settled", settled, if settled { "settled" } else { "no longer settled" });
        if settled && !self.run.start_later.is_empty() {
            self.note("agent-work", "start", "domains refused as not settled can start");
        }
    }

    pub(super) fn on_settle_timeout(&mut self, request: RequestId) {
        if self.waiting.remove(&request) {
            let unsettled = self.unsettled();
            if unsettled.is_empty() {
                let outcome = Ok(super::claims::done(false, "settled"));
                return self.push(Effect::Answer { request, outcome });
            }
            let mut refusal = Refusal::new(Code::Timeout, "not settled in the time given");
            refusal.causes.extend(unsettled.into_iter().map(|w| format!("waiting for {w}")));
            let outcome = Err(refusal.hint(hint!(
                "the same again with a longer --timeout; or take what is gone for good out of \
                 /etc/gpuslice/gpuslice.toml, then gpuslice apply"
            )));
            self.push(Effect::Answer { request, outcome });
        }
    }

    /// Before all is settled, what a claim misses of a profile may yet come.
    pub(super) fn or_not_settled(&self, profile: &ProfileName, refusal: Refusal) -> Refusal {
        let offers = |device: &ParentId| {
            let mut offers = self.offers().into_iter().filter(|offer| offer.profile == *profile);
            offers.any(|offer| self.seen.device_of(&offer.parent) == *device)
        };
        self.or_not_settled_on(&offers, refusal)
    }

    /// The same where only some devices help by being made ready: what others offer is known.
    pub(super) fn or_not_settled_on(
        &self,
        helps: &dyn Fn(&ParentId) -> bool,
        refusal: Refusal,
    ) -> Refusal {
        let may_come = matches!(
            refusal.code,
            Code::NoProfile
                | Code::NoCapacity
                | Code::OtherNumaNode
                | Code::Absent
                | Code::Reshaping
                | Code::Foreign
        );
        let waiting = if may_come { self.waiting_with(helps) } else { Vec::new() };
        if waiting.is_empty() {
            return refusal;
        }
        settled_later(&waiting.join(", "), refusal.message)
    }

    /// Before what yielded a profile has come in this boot, it may yet come.
    pub(super) fn or_to_come(&self, profile: &ProfileName, refusal: Refusal) -> Refusal {
        let Some(parent) = self.yet_to_come(profile).next() else { return refusal };
        match refusal.code {
            Code::NotSettled => refusal,
            _ => settled_later(&format!("{parent} to appear"), refusal.message),
        }
    }
}

pub(super) fn settled_later(waiting_for: &str, why: String) -> Refusal {
    Refusal::new(Code::NotSettled, format!("waiting for {waiting_for}")).because(why).hint(hint!(
        "gpuslice wait --settled (within ten minutes the domain is started by itself then)"
    ))
}
