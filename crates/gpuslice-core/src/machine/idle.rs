//! What is as it should be and serves nobody: cordoned GPUs, and rules that no device meets.

use super::Machine;
use super::layouts::named;
use crate::ids::ParentId;
use crate::layout::{self, Rule};
use std::collections::BTreeMap;

impl Machine {
    /// Cordons, once for all GPUs of which the reason is the same. What the kernel's log says is told with their health.
    pub(super) fn set_aside(&self) -> impl Iterator<Item = String> {
        let mut alike: BTreeMap<&str, Vec<&ParentId>> = BTreeMap::new();
        for (parent, why) in &self.durable.cordons {
            let log = |line: &str| why.strip_prefix(super::health::CORDONED_FOR) == Some(line);
            if !self.durable.health.get(parent).is_some_and(|health| log(&health.line)) {
                alike.entry(why).or_default().push(parent);
            }
        }
        alike.into_iter().map(|(why, parents)| {
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            match parents.as_slice() {
                [one] => format!("{one} is cordoned{why}; gpuslice uncordon {one} ends it"),
                many => {
                    let each: Vec<String> = many.iter().map(ToString::to_string).collect();
                    let (n, each) = (each.len(), each.join(", "));
                    format!(
                        "{n} GPUs are cordoned{why}; gpuslice uncordon ends it for each: {each}"
                    )
                }
            }
        })
    }

    /// Rules of which nothing else tells that no device meets them: one that is named by its address, or was there, is awaited,
    /// and what cannot be sliced says so itself.
    pub(super) fn met_by_none(&self) -> impl Iterator<Item = String> {
        let rules = if self.observed { self.durable.rules.as_slice() } else { &[] };
        let unmet = layout::resolve(rules, &self.seen).unmet.into_iter();
        let told = |rule: &Rule| {
            let away = |(parent, of): (&ParentId, &layout::Layout)| {
                self.is_away(parent) && *of == rule.layout
            };
            rule.matches.address.is_some()
                || self.seen.whole.iter().any(|(address, f)| rule.matches.meets(*address, f))
                || self.durable.expected.iter().any(away)
        };
        unmet
            .filter(move |rule| !told(rule))
            .map(|rule| format!("no device meets {}", self.unmet(rule)))
    }

    /// A rule that no device meets, with the model that may be meant.
    pub(super) fn unmet(&self, rule: &Rule) -> String {
        let named = named(rule);
        match rule.matches.model.as_deref().and_then(|model| self.nearest_model(model)) {
            Some(nearest) => format!("{named}; did you mean model = \"{nearest}\"?"),
            None => named,
        }
    }

    /// Of those that are here. Names are short, and a digit tells one product from another.
    fn nearest_model(&self, model: &str) -> Option<&'static str> {
        let here = self.seen.functions.values().chain(self.seen.whole.values());
        let near = here.filter_map(|function| function.model);
        let near = near.map(|here| (strsim::damerau_levenshtein(here, model), here));
        let (_, nearest) = near.filter(|(d, here)| *d > 0 && d * 3 <= here.len()).min()?;
        Some(nearest)
    }
}
