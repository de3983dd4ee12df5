//! What is still to come, who waits for it, and what a start is told that is refused before it has come.

use super::awaited::Awaited;
use super::{Effect, Machine, RequestId, Timer};
use crate::hint;
use crate::ids::{ParentId, PciAddress, ProfileName};
use crate::refusal::{Code, Refusal};
use crate::request::Answer;
use std::collections::BTreeSet;

/// Milliseconds for which anybody may wait.
const LONGEST_WAIT: u64 = 24 * 60 * 60 * 1000;

/// What is awaited before anything is known.
const FIRST_LOOK: &str = "the first look at the host";

impl Machine {
    /// What is still to come; empty when settled.
    pub(super) fn waiting_for(&self) -> Vec<String> {
        match self.observed {
            true => self.awaited().into_iter().map(|awaited| awaited.what).collect(),
            false => vec![FIRST_LOOK.to_owned()],
        }
    }

    /// What of that comes by itself: changes under way, and with a young boot what it may bring.
    pub(super) fn coming(&self) -> Vec<String> {
        match self.observed {
            true => {
                let made = self.in_the_making().map(|awaited| awaited.what);
                made.chain(self.resets_under_way()).collect()
            }
            false => vec![FIRST_LOOK.to_owned()],
        }
    }

    /// What is clean after them is given out again.
    fn resets_under_way(&self) -> impl Iterator<Item = String> {
        self.resets.keys().map(|slice| format!("the reset of {slice}"))
    }

    pub(super) fn settled(&self) -> bool {
        self.waiting_for().is_empty()
    }

    /// What people wait for: what refused starts lack, what is being parked as far as there is room, and resets. No other start
    /// is kept waiting for that.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let mut unsettled = self.waiting_for();
        let of_starts: BTreeSet<&ParentId> = self.lacked_by_starts().collect();
        unsettled.extend(of_starts.into_iter().map(|parent| format!("{parent} to appear")));
        let parking = self.parking_on();
        unsettled.extend(parking.map(|device| format!("what is parked on {device}")));
        unsettled.extend(self.resets_under_way());
        unsettled
    }

    /// Answered when it is so. What has just been done is read back first: it may have made room for what is to be parked.
    pub(super) fn on_wait_settled(&mut self, request: RequestId, timeout_ms: u64) {
        if !self.stale && self.unsettled().is_empty() {
            let outcome = Ok(super::claims::done(false, "settled"));
            return self.push(Effect::Answer { request, outcome });
        }
        self.waiting.insert(request);
        let after = timeout_ms.min(LONGEST_WAIT);
        self.push(Effect::Arm { timer: Timer::Settle(request), after });
    }

    /// Answers those who wait, when it has come to be so.
    pub(super) fn tell_settled(&mut self) {
        if !self.waiting.is_empty() && self.unsettled().is_empty() {
            for request in std::mem::take(&mut self.waiting) {
                self.push(Effect::Disarm { timer: Timer::Settle(request) });
                let message = "settled".to_owned();
                let outcome = Ok(Answer::Done { changed: false, message });
                self.push(Effect::Answer { request, outcome });
            }
        }
        let settled = self.settled();
        if settled == self.was_settled {
            return;
        }
        self.was_settled = settled;
        self.note("settled", settled, if settled { "settled" } else { "no longer settled" });
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

    /// Nobody hears the answer: it is not waited for. What was ordered stays.
    pub(super) fn on_caller_gone(&mut self, request: RequestId) {
        if self.waiting.remove(&request) {
            self.push(Effect::Disarm { timer: Timer::Settle(request) });
        }
        if self.drains.remove(&request).is_some() {
            self.push(Effect::Disarm { timer: Timer::Drain(request) });
        }
    }

    /// What is awaited that could have a profile, in words.
    pub(super) fn waits_for(&self, profile: &ProfileName) -> Option<String> {
        match self.observed {
            true => said(&self.may_come(profile, None)),
            false => Some(FIRST_LOOK.to_owned()),
        }
    }

    /// Before all that could have it is there, what a claim misses of a profile may yet come.
    pub(super) fn or_not_settled(&self, profile: &ProfileName, refusal: Refusal) -> Refusal {
        self.or_not_settled_at(profile, None, refusal)
    }

    /// The same where it has to be one VF.
    pub(super) fn or_not_settled_at(
        &self,
        profile: &ProfileName,
        vf: Option<PciAddress>,
        refusal: Refusal,
    ) -> Refusal {
        let may_come = matches!(
            refusal.code,
            Code::NoProfile
                | Code::NoCapacity
                | Code::Cordoned
                | Code::OtherNumaNode
                | Code::Absent
                | Code::Reshaping
                | Code::Foreign
        );
        if !may_come {
            return refusal;
        }
        if !self.observed {
            return settled_later(FIRST_LOOK, refusal.message);
        }
        let mut awaited = self.may_come(profile, vf);
        if refusal.code == Code::Cordoned {
            // One that is cordoned too would give nothing out when it has come.
            awaited.retain(|other| !self.durable.cordons.contains_key(&other.device));
        }
        let Some(waiting) = said(&awaited) else { return refusal };
        let other = refusal.way_out().filter(|_| self.none_is_known(&awaited));
        let later = settled_later(&waiting, refusal.message);
        match (later.way_out(), other) {
            // It may as well never come.
            (Some(wait), Some(other)) => later.hint(hint!("{}; or {}", wait, other)),
            _ => later,
        }
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

fn said(awaited: &[Awaited]) -> Option<String> {
    let each: Vec<&str> = awaited.iter().map(|awaited| awaited.what.as_str()).collect();
    (!each.is_empty()).then(|| each.join(", "))
}

pub(super) fn settled_later(waiting_for: &str, why: String) -> Refusal {
    Refusal::new(Code::NotSettled, format!("waiting for {waiting_for}")).because(why).hint(hint!(
        "gpuslice wait --settled (within ten minutes the domain is started by itself then)"
    ))
}
