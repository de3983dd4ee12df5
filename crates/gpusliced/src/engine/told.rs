//! Answers on their way out, and lists that are asked for again before anything happened.

use gpuslice_core::request::{Command, Outcome};
use serde_json::value::RawValue;
use std::sync::{Arc, OnceLock};

/// Bytes of JSON up to which a list is kept while the daemon rests: hundreds of rows. Thousands would be more than all
/// else it has in memory.
const KEPT_AT_REST: usize = 128 * 1024;

/// What a caller is told. It may be told to several, and is then written down once.
#[derive(Debug, Clone)]
pub struct Told(Arc<Text>);

#[derive(Debug)]
struct Text {
    outcome: Outcome,
    json: OnceLock<Option<Box<RawValue>>>,
}

impl From<Outcome> for Told {
    fn from(outcome: Outcome) -> Self {
        Self(Arc::new(Text { outcome, json: OnceLock::new() }))
    }
}

impl Told {
    /// The outcome itself.
    pub fn outcome(self) -> Outcome {
        match Arc::try_unwrap(self.0) {
            Ok(text) => text.outcome,
            Err(shared) => shared.outcome.clone(),
        }
    }

    /// The outcome, to look at.
    pub fn as_outcome(&self) -> &Outcome {
        &self.0.outcome
    }

    /// Its answer as JSON; `None` for a refusal.
    pub fn json(&self) -> Option<&RawValue> {
        let written = || serde_json::value::to_raw_value(self.0.outcome.as_ref().ok()?).ok();
        self.0.json.get_or_init(written).as_deref()
    }

    fn is_long(&self) -> bool {
        let written = self.0.json.get().and_then(Option::as_deref);
        written.is_none_or(|json| json.get().len() > KEPT_AT_REST)
    }
}

/// Lists as they were told last. They are true until anything happens: the machine has nothing else to make them of.
#[derive(Debug, Default)]
pub(super) struct Shown(Vec<(Command, Told)>);

impl Shown {
    /// What was told to the same question.
    pub fn again(&self, command: &Command) -> Option<Told> {
        self.0.iter().find(|(asked, _)| asked == command).map(|(_, told)| told.clone())
    }

    /// Keeps a list.
    pub fn keep(&mut self, command: Command, told: Told) {
        self.0.push((command, told));
    }

    /// Something happened.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// The daemon goes to rest.
    pub fn forget_long(&mut self) {
        self.0.retain(|(_, told)| !told.is_long());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuslice_core::refusal::{Code, Refusal};
    use gpuslice_core::request::{Answer, ClaimRow};

    fn claims() -> Outcome {
        Ok(Answer::Claims { rows: Vec::<ClaimRow>::new() })
    }

    #[test]
    fn an_answer_is_written_as_serde_writes_it_and_a_refusal_is_not() {
        let told = Told::from(claims());
        let written = told.json().map(RawValue::get).map(str::to_owned);
        assert_eq!(written, serde_json::to_string(&claims().unwrap()).ok());
        assert_eq!(told.clone().outcome(), claims());
        let refused = Told::from(Err(Refusal::new(Code::BadRequest, "no")));
        assert!(refused.json().is_none());
    }

    #[test]
    fn a_list_is_kept_for_its_own_question_until_something_happens() {
        let mut shown = Shown::default();
        shown.keep(Command::ListClaims, Told::from(claims()));
        assert_eq!(shown.again(&Command::ListClaims).map(Told::outcome), Some(claims()));
        assert!(shown.again(&Command::ListSlices).is_none());
        shown.forget();
        assert!(shown.again(&Command::ListClaims).is_none());
    }

    #[test]
    fn at_rest_only_short_lists_are_kept() {
        let mut shown = Shown::default();
        let short = Told::from(claims());
        assert!(short.json().is_some());
        shown.keep(Command::ListClaims, short);
        let message = "x".repeat(KEPT_AT_REST);
        let long = Told::from(Ok(Answer::Done { changed: false, message }));
        assert!(long.json().is_some());
        shown.keep(Command::ListTypes, long);
        shown.forget_long();
        assert!(shown.again(&Command::ListClaims).is_some());
        assert!(shown.again(&Command::ListTypes).is_none());
    }
}
