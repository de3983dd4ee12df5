//! What of a configuration is not yet what applies, whether or not a step comes of it.

use super::Machine;
use super::layouts::named;
use crate::config::Config;
use crate::ids::ParentId;
use crate::layout::{self, Rule};
use crate::mechanism::Layouts;
use crate::request::LayoutRow;
use std::collections::BTreeSet;

impl Machine {
    /// GPUs of which it says something else.
    pub(super) fn laid_out_anew(&self, layouts: &Layouts) -> Vec<LayoutRow> {
        let parents: BTreeSet<&ParentId> = self.layouts.keys().chain(layouts.keys()).collect();
        let row = |parent: &ParentId| {
            let (before, after) = (self.layouts.get(parent), layouts.get(parent));
            (before != after).then(|| LayoutRow {
                parent: parent.clone(),
                before: before.map(ToString::to_string),
                after: after.map(ToString::to_string),
            })
        };
        parents.into_iter().filter_map(row).collect()
    }

    /// The rest: settings, and rules that count for no device now. That one is written elsewhere is no news.
    pub(super) fn set_anew(&self, config: &Config) -> Vec<String> {
        let (now, next) = (&self.config, config);
        let mut news = Vec::new();
        if now.placement != next.placement {
            let (now, next) = (now.placement.as_str(), next.placement.as_str());
            news.push(format!("placement = \"{next}\", was \"{now}\""));
        }
        if now.on_error != next.on_error {
            let (now, next) = (now.on_error.as_str(), next.on_error.as_str());
            news.push(format!("on-error = \"{next}\", was \"{now}\""));
        }
        let (applied, written) = (&self.durable.rules, &config.rules);
        let told =
            |word: &str, rule: &Rule| format!("rule {word}: {}, {}", named(rule), rule.layout);
        news.extend(self.idle_but(written, applied).map(|rule| told("new", rule)));
        news.extend(self.idle_but(applied, written).map(|rule| told("dropped", rule)));
        news
    }

    /// Rules that count for no device, and are not among the others.
    fn idle_but<'r>(
        &self,
        rules: &'r [Rule],
        others: &'r [Rule],
    ) -> impl Iterator<Item = &'r Rule> {
        let resolved = layout::resolve(rules, &self.seen);
        let overruled = resolved.overruled.into_iter().map(|overruled| overruled.rule);
        let idle = resolved.unmet.into_iter().chain(overruled);
        idle.filter(|rule| {
            !others.iter().any(|r| r.matches == rule.matches && r.layout == rule.layout)
        })
    }
}
