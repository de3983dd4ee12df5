//! Questions for which holders are looked for. Any user decides how long that takes, by what his processes have open: so
//! only who asked waits for it.

use crate::backend::{Look, Looked};
use gpuslice_core::machine::{Event, RequestId};
use std::collections::VecDeque;

/// One look at a time, each for all that was asked before it began: what is asked later is asked of what is so then.
#[derive(Default)]
pub(super) struct Looks {
    /// For the next one.
    waiting: VecDeque<Event>,
    /// For the one that is under way, or that has ended.
    served: VecDeque<Event>,
    pub(super) under_way: Option<Look>,
}

impl Looks {
    /// Keeps a question for the next look.
    pub fn wait(&mut self, question: Event) {
        self.waiting.push_back(question);
    }

    /// Whether this was asked and waits for a look.
    pub fn keeps(&self, asked: RequestId) -> bool {
        let mut kept = self.waiting.iter().chain(&self.served);
        kept.any(|question| matches!(question, Event::Command { request, .. } if *request == asked))
    }

    /// Whether one is to begin.
    pub fn is_due(&self) -> bool {
        self.under_way.is_none() && self.served.is_empty() && !self.waiting.is_empty()
    }

    /// It begins.
    pub fn begin(&mut self, look: Look) {
        self.served = std::mem::take(&mut self.waiting);
        self.under_way = Some(look);
    }

    /// What was found; never, while none is under way. It can be broken off and waited for again.
    pub async fn ended(&mut self) -> Looked {
        let Some(look) = &mut self.under_way else { return std::future::pending().await };
        let looked = look.await;
        self.under_way = None;
        looked
    }

    /// The next question that can be answered now.
    pub fn served(&mut self) -> Option<Event> {
        if self.under_way.is_some() { None } else { self.served.pop_front() }
    }
}
