//! What mends a refusal, in words that can be followed and pasted. A type of its own, so that no text becomes one but
//! by [`hint!`](crate::hint): each stands in the sources where a test finds it and asks for a case that follows it,
//! and whatever is put into it is one word for a shell.

use super::Refusal;
use crate::shell::quoted;
use std::fmt::Display;

/// What mends something: `A, then B` where it takes several steps, each a command or an edit that names what to edit;
/// other ways out behind `; or `; remarks in parentheses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hint(String);

impl Hint {
    /// For [`hint!`](crate::hint) alone.
    #[doc(hidden)]
    #[must_use]
    pub fn made(text: String) -> Self {
        Self(text)
    }

    /// The words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Steps one after the other, each once; none of none.
    pub fn in_turn(steps: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut each: Vec<String> = Vec::new();
        for Self(step) in steps {
            if !each.contains(&step) {
                each.push(step);
            }
        }
        (!each.is_empty()).then(|| Self(each.join(", then ")))
    }

    /// Words beside each other, to be put into a hint.
    pub fn words(words: impl IntoIterator<Item = impl InHint>, between: &str) -> Self {
        let words: Vec<String> = words.into_iter().map(|word| word.in_hint()).collect();
        Self(words.join(between))
    }
}

impl Refusal {
    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: Hint) -> Self {
        self.hint = Some(hint.0);
        self
    }

    /// What mends this one, to mend another by.
    #[must_use]
    pub fn way_out(&self) -> Option<Hint> {
        self.hint.clone().map(Hint)
    }

    /// Says the same hint in other words, as for somebody who has to type it in another way.
    #[must_use]
    pub fn reworded(mut self, words: impl FnOnce(&str) -> String) -> Self {
        self.hint = self.hint.map(|hint| words(&hint));
        self
    }
}

/// What can stand in a hint.
pub trait InHint {
    /// As a shell takes it for one word; a hint within a hint as it is.
    fn in_hint(&self) -> String;
}

impl<T: Display + ?Sized> InHint for T {
    fn in_hint(&self) -> String {
        quoted(&self.to_string())
    }
}

impl InHint for Hint {
    fn in_hint(&self) -> String {
        self.0.clone()
    }
}

/// A [`Hint`]: a format whose places are `{}`, and what goes there. Whatever a shell would take
/// for more than one word is quoted; another hint goes in as it is.
#[macro_export]
macro_rules! hint {
    ($format:literal $(, $value:expr)* $(,)?) => {
        $crate::refusal::Hint::made({
            #[allow(unused_imports)]
            use $crate::refusal::InHint as _;
            // By `concat!` no variable can be named in the format, past the quotes.
            format!(concat!($format) $(, $value.in_hint())*)
        })
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Code;

    #[test]
    fn what_a_shell_would_take_for_more_is_quoted() {
        let name = "win 11's (test)".to_owned();
        let whole = hint!("virsh edit {}: managed='no', then virsh start {}", name, &name);
        let quoted = r"'win 11'\''s (test)'";
        let want = format!("virsh edit {quoted}: managed='no', then virsh start {quoted}");
        assert_eq!(whole.as_str(), want);
        assert_eq!(hint!("kill {}", 42).as_str(), "kill 42");
        assert_eq!(hint!("park = {{ {} = {} }}", "p", 1).as_str(), "park = { p = 1 }");
        let args = Hint::words(["attach", "my vm"], " ");
        assert_eq!(hint!("sudo gpuslice {}", args).as_str(), "sudo gpuslice attach 'my vm'");
    }

    #[test]
    fn a_hint_in_a_hint_stays_as_it_is() {
        let end = hint!("virsh shutdown {}", "my vm");
        assert_eq!(
            hint!("{}, then try again", end).as_str(),
            "virsh shutdown 'my vm', then try again"
        );
        let twice = [end.clone(), hint!("kill 1"), end];
        let turns = Hint::in_turn(twice).unwrap();
        assert_eq!(turns.as_str(), "virsh shutdown 'my vm', then kill 1");
        assert_eq!(Hint::in_turn([]), None);
        let why = Refusal::new(Code::Held, "m").hint(turns.clone());
        assert_eq!(why.way_out(), Some(turns));
        assert_eq!(
            why.reworded(|h| h.replace("kill", "end")).hint.unwrap(),
            "virsh shutdown 'my vm', then end 1"
        );
    }
}
