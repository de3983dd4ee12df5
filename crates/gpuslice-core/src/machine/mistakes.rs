//! Mistakes of rules that only a device can tell: named by where the rule is written, and once for all devices of which
//! the same is so.

use super::Machine;
use crate::ids::ParentId;
use crate::layout::{self, Rule};
use crate::refusal::{Code, Refusal};

/// What was told, of one device and of those like it.
struct Alike<T> {
    what: T,
    first: ParentId,
    count: usize,
}

/// Puts what is told of devices together where it differs in the device alone.
fn alike<T>(
    told: impl IntoIterator<Item = (ParentId, T)>,
    same: impl Fn((&ParentId, &T), (&ParentId, &T)) -> bool,
) -> Vec<Alike<T>> {
    let mut all: Vec<Alike<T>> = Vec::new();
    for (parent, what) in told {
        let known = all.iter_mut().find(|of| same((&of.first, &of.what), (&parent, &what)));
        match known {
            Some(of) => of.count += 1,
            None => all.push(Alike { what, first: parent, count: 1 }),
        }
    }
    all
}

/// Whether the same is refused of two devices.
fn same_refusal(one: (&ParentId, &Refusal), other: (&ParentId, &Refusal)) -> bool {
    let of = |(parent, why): (&ParentId, &Refusal)| {
        let parent = parent.to_string();
        let words = [&why.message].into_iter().chain(&why.causes).chain(&why.hint);
        (why.code, words.map(|text| text.replace(&parent, "")).collect::<Vec<_>>())
    };
    of(one) == of(other)
}

/// What rules say and their devices refuse.
pub(super) fn told(mistakes: Vec<(&Rule, ParentId, Refusal)>) -> impl Iterator<Item = Refusal> {
    let devices: Vec<(ParentId, &Rule)> =
        mistakes.iter().map(|(rule, parent, _)| (parent.clone(), *rule)).collect();
    let mut each: Vec<(ParentId, (&Rule, Refusal))> = Vec::new();
    for (rule, parent, why) in mistakes {
        let (parent, rule) = is_of(&why, &devices, &parent).unwrap_or((parent, rule));
        // Those that go together are refused together, each for the one at fault.
        if !each.iter().any(|(of, (_, known))| *of == parent && *known == why) {
            each.push((parent, (rule, why)));
        }
    }
    let each = alike(each, |one, other| {
        let ((parent, (rule, why)), (other, (other_rule, other_why))) = (one, other);
        std::ptr::eq(*rule, *other_rule) && same_refusal((parent, why), (other, other_why))
    });
    each.into_iter().map(|of| {
        let (rule, why) = of.what;
        written_at(&rule.origin, &of.first, of.count, why)
    })
}

/// The device that is at fault, with its rule: this one, if it is among those that are named.
fn is_of<'r>(
    why: &Refusal,
    devices: &[(ParentId, &'r Rule)],
    parent: &ParentId,
) -> Option<(ParentId, &'r Rule)> {
    let named = |of: &ParentId| why.message.contains(&of.to_string());
    let mut at_fault = devices.iter().filter(|(of, _)| named(of));
    let own = at_fault.clone().find(|(of, _)| of == parent);
    own.or_else(|| at_fault.next()).cloned()
}

/// Where no device is named, what is wrong is written elsewhere.
fn written_at(origin: &str, parent: &ParentId, count: usize, mut why: Refusal) -> Refusal {
    let parent = parent.to_string();
    let (place, of) = match count {
        1 => (origin.to_owned(), format!("{parent} ({origin})")),
        n => (format!("{origin}, of {n} GPUs"), format!("{n} GPUs ({origin})")),
    };
    if why.message.contains(&parent) {
        why.message = format!("{place}: {}", why.message);
    }
    why.reworded(|hint| hint.replace(&parent, &of))
}

impl Machine {
    /// Why a layout that was applied cannot be met by its device.
    pub(super) fn by_its_rule(&self, parent: &ParentId, why: Refusal) -> Refusal {
        let resolved = layout::resolve(&self.durable.rules, &self.seen).devices;
        match is_of(&why, &resolved, parent) {
            Some((parent, rule)) if why.code == Code::BadConfig => {
                written_at(&rule.origin, &parent, 1, why)
            }
            _ => why,
        }
    }

    /// GPUs that are not touched, once for all of which the same is so.
    pub(super) fn told_quarantines(&self) -> impl Iterator<Item = String> {
        let each = self.durable.quarantines.iter().map(|(parent, why)| (parent.clone(), why));
        alike(each, |(one, why), (other, other_why)| same_refusal((one, why), (other, other_why)))
            .into_iter()
            .map(|of| {
                let (why, first) = (of.what, of.first);
                let which = match of.count {
                    1 => format!("{first} is"),
                    n => format!("{first} and {} more are", n - 1),
                };
                format!("{which} quarantined: {}: {}", why.code, why.reason())
            })
    }
}
