//! The look for holders that the daemon's engine takes before it answers what shows or chooses slices.

use crate::driver::Driver;
use gpuslice_core::holders;
use gpuslice_core::machine::Event;

impl Driver {
    /// What the machine is told next: before such a question, who holds slices, where that is news.
    pub fn next_event(&mut self) -> Option<Event> {
        self.news_of_holders().or_else(|| self.queue.pop_front())
    }

    fn news_of_holders(&self) -> Option<Event> {
        let Event::Command { command, .. } = self.queue.front()? else { return None };
        if !command.shows_slices() {
            return None;
        }
        let each = holders::find_each(&self.kernel, &self.machine.unassigned());
        // Of what could not be told it is as before.
        let mut held = self.machine.held().clone();
        held.retain(|slice, _| each.untold.contains_key(slice));
        held.extend(each.one_of_each());
        (held != *self.machine.held()).then_some(Event::Held(held))
    }
}
