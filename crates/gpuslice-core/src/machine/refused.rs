//! Why domains without a claim were refused when they were last to start: of the others their claims tell. It is known as
//! long as the daemon runs, and what is forgotten costs nobody more than another start.

use super::Machine;
use crate::ids::Owner;
use crate::refusal::Refusal;
use crate::request::RefusedStart;
use uuid::Uuid;

/// So many are known, the latest: who may start domains may define as many as he likes.
const MOST: usize = 64;

impl Machine {
    pub(super) fn remember_refused_start(&mut self, domain: Uuid, name: &str, refusal: &Refusal) {
        self.forget_refused_start(domain);
        let owner = Owner::Domain(domain);
        if self.durable.claims.keys().any(|key| key.owner == owner) {
            return;
        }
        if self.refused_starts.len() == MOST {
            self.refused_starts.pop_front();
        }
        let (name, refusal) = (name.to_owned(), refusal.clone());
        self.refused_starts.push_back(RefusedStart { domain, name, refusal });
    }

    /// It starts, or is undefined.
    pub(super) fn forget_refused_start(&mut self, domain: Uuid) {
        self.refused_starts.retain(|start| start.domain != domain);
    }
}
