//! What vendors' tools told, and people's files. Asking a tool takes a second and more, and is in the way of whoever sets
//! the device meanwhile; files of modules' options are many. So both are asked again only when something tells that the
//! answer may have changed: people are heard when they say `apply`. A tool that failed is not asked by each reading
//! either: whoever reads waits for it, and it may hang.

use super::options;
use crate::errno::Errno;
use crate::observation::Options;
use crate::port::{HostRead, Ran, read_text};
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub struct Answers {
    told: BTreeMap<Vec<String>, Told>,
    options: BTreeMap<&'static str, Arc<Options>>,
    given: Option<options::Given>,
    failed: BTreeMap<Vec<String>, Failed>,
    texts: BTreeMap<String, String>,
    silent: bool,
}

/// What a tool said.
#[derive(Debug)]
struct Told {
    state: String,
    ran: Ran,
    /// Nothing but its state changes it.
    lasts: bool,
}

/// A question that came to nothing.
#[derive(Debug)]
struct Failed {
    state: String,
    how: Result<Ran, Errno>,
    is_answer: fn(&Ran) -> bool,
}

impl Failed {
    /// Whether it did not end in its time, as it would not in another state either.
    fn hangs(&self) -> bool {
        self.how == Err(Errno::ETIMEDOUT)
    }
}

impl Answers {
    /// What a tool says, or said when `state` was the same: what can be read without it and changes with the answer. What
    /// is no answer is not taken for the tool's word, and stands until it is asked beside the readings.
    ///
    /// # Errors
    /// `EAGAIN` when it was never asked and must not be now, else that of [`HostRead::ask`].
    pub fn ask(
        &mut self,
        host: &dyn HostRead,
        command: &[&str],
        state: &str,
        is_answer: fn(&Ran) -> bool,
    ) -> Result<Ran, Errno> {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        match self.told.get(&command) {
            Some(told) if self.silent || told.state == state => return Ok(told.ran.clone()),
            None if self.silent => return Err(Errno::EAGAIN),
            _ => {}
        }
        if let Some(failed) = self.failed.get(&command)
            && (failed.state == state || failed.hangs())
        {
            return failed.how.clone();
        }
        let how = host.ask(&command);
        self.keep(command, Failed { state: state.to_owned(), how: how.clone(), is_answer });
        how
    }

    /// What a tool said when it was asked last.
    pub fn last(&self, command: &[&str]) -> Option<&str> {
        self.told_of(command).map(|told| told.ran.said.as_str())
    }

    fn told_of(&self, command: &[&str]) -> Option<&Told> {
        self.told.iter().find(|(asked, _)| asked.iter().eq(command)).map(|(_, told)| told)
    }

    /// Whether what was told last was said to last.
    pub fn is_lasting(&self, command: &[&str]) -> bool {
        self.told_of(command).is_some_and(|told| told.lasts)
    }

    /// What was told last changes with the state it was told in, and with nothing else: neither what a person does nor what
    /// a step does is a reason to ask again. Not where the tool failed, which may have left something out.
    pub fn lasts(&mut self, command: &[&str]) {
        if let Some((_, told)) = self.told.iter_mut().find(|(asked, _)| asked.iter().eq(command)) {
            told.lasts = told.ran.code == 0;
        }
    }

    /// An attribute whose reading waits for its device. While a step sets one it is what it was, as far as that is known.
    ///
    /// # Errors
    /// That of [`HostRead::read`].
    pub fn text(&mut self, host: &dyn HostRead, path: &str) -> Result<String, Errno> {
        if let Some(text) = self.texts.get(path).filter(|_| self.silent) {
            return Ok(text.clone());
        }
        let text = read_text(host, path)?;
        if self.texts.get(path) != Some(&text) {
            self.texts.insert(path.to_owned(), text.clone());
        }
        Ok(text)
    }

    /// The options that files of `modprobe.d` and the kernel's arguments give a module, gpuslice's own files left out.
    pub fn options(&mut self, host: &dyn HostRead, module: &'static str) -> Arc<Options> {
        let given = &mut self.given;
        let own = || Arc::new(given.get_or_insert_with(|| options::read(host)).of(module));
        Arc::clone(self.options.entry(module).or_insert_with(own))
    }

    fn keep(&mut self, command: Vec<String>, Failed { state, how, is_answer }: Failed) {
        self.failed.remove(&command);
        match how {
            Ok(ran) if is_answer(&ran) => {
                self.told.insert(command, Told { state, ran, lasts: false });
            }
            // Where there is none, that is found out in no time.
            Err(Errno::ENOENT | Errno::EAGAIN) => {}
            how => drop(self.failed.insert(command, Failed { state, how, is_answer })),
        }
    }

    /// Questions that came to nothing, as commands.
    pub(super) fn failed(&self) -> Vec<Vec<String>> {
        self.failed.keys().cloned().collect()
    }

    /// One of them was asked again.
    pub(super) fn asked_again(&mut self, command: &[String], how: Result<Ran, Errno>) {
        if let Some((command, failed)) = self.failed.remove_entry(command) {
            self.keep(command, Failed { how, ..failed });
        }
    }

    /// What hangs goes on hanging.
    pub(super) fn forget(&mut self) {
        self.told.retain(|_, told| told.lasts);
        self.options.clear();
        self.given = None;
        self.failed.retain(|_, failed| failed.hangs());
    }

    pub(super) fn forget_all(&mut self) {
        self.told.retain(|_, told| told.lasts);
        self.options.clear();
        self.given = None;
        self.failed.clear();
    }

    pub(super) fn may_ask(&mut self, may: bool) {
        self.silent = !may;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::LogLine;
    use std::cell::Cell;

    /// Says how often it was asked.
    #[derive(Default)]
    struct Tool(Cell<u32>);

    impl HostRead for Tool {
        fn list(&self, _: &str) -> Result<Vec<String>, Errno> {
            Err(Errno::ENOENT)
        }

        fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
            if path == "/gone" {
                return Err(Errno::ENOENT);
            }
            self.0.set(self.0.get() + 1);
            Ok(format!("{}\n", self.0.get()).into_bytes())
        }

        fn link(&self, _: &str) -> Result<String, Errno> {
            Err(Errno::ENOENT)
        }

        fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
            Err(Errno::ENOENT)
        }

        fn ask(&self, command: &[String]) -> Result<Ran, Errno> {
            self.0.set(self.0.get() + 1);
            let code = match command.first().map(String::as_str) {
                Some("/smi") => 0,
                Some("/broken") => 9,
                Some("/hung") => return Err(Errno::ETIMEDOUT),
                _ => return Err(Errno::ENOENT),
            };
            Ok(Ran { code, said: self.0.get().to_string() })
        }
    }

    fn worked(ran: &Ran) -> bool {
        ran.code == 0
    }

    #[test]
    fn a_tool_is_asked_again_when_its_answer_may_have_changed() {
        let (tool, mut answers) = (Tool::default(), Answers::default());
        let ask = |answers: &mut Answers, state: &str| {
            answers.ask(&tool, &["/smi"], state, worked).map(|ran| ran.said)
        };
        answers.may_ask(false);
        assert_eq!(ask(&mut answers, "a"), Err(Errno::EAGAIN));
        answers.may_ask(true);
        assert_eq!(ask(&mut answers, "a").unwrap(), "1");
        assert_eq!(ask(&mut answers, "a").unwrap(), "1");
        assert_eq!(ask(&mut answers, "b").unwrap(), "2");
        answers.may_ask(false);
        assert_eq!(ask(&mut answers, "c").unwrap(), "2");
        answers.may_ask(true);
        answers.forget();
        assert_eq!(ask(&mut answers, "c").unwrap(), "3");
    }

    #[test]
    fn what_nothing_but_its_state_changes_is_asked_again_in_another_one_alone() {
        let (tool, mut answers) = (Tool::default(), Answers::default());
        let any = |_: &Ran| true;
        let ask = |answers: &mut Answers, command: &str, state: &str| {
            let ran = answers.ask(&tool, &[command], state, any).unwrap();
            answers.lasts(&[command]);
            ran.said
        };
        assert_eq!(ask(&mut answers, "/smi", "a"), "1");
        answers.forget();
        answers.forget_all();
        assert_eq!(ask(&mut answers, "/smi", "a"), "1");
        assert_eq!(ask(&mut answers, "/smi", "b"), "2");
        assert_eq!(ask(&mut answers, "/smi", "a"), "3");
        // Some of it may be missing.
        assert_eq!(ask(&mut answers, "/broken", "a"), "4");
        answers.forget();
        assert_eq!(ask(&mut answers, "/broken", "a"), "5");
    }

    #[test]
    fn one_that_is_not_there_is_looked_for_again() {
        let (tool, mut answers) = (Tool::default(), Answers::default());
        for times in 1..=2 {
            assert_eq!(answers.ask(&tool, &["/none"], "", worked), Err(Errno::ENOENT));
            assert_eq!(tool.0.get(), times);
        }
    }

    #[test]
    fn a_failure_is_no_answer_and_is_asked_for_again_beside_the_readings_or_in_another_state() {
        let (tool, mut answers) = (Tool::default(), Answers::default());
        let ask = |answers: &mut Answers, state: &str| {
            let ran = answers.ask(&tool, &["/broken"], state, worked).unwrap();
            (ran.code, ran.said)
        };
        assert_eq!(ask(&mut answers, "a"), (9, "1".to_owned()));
        assert_eq!(ask(&mut answers, "a"), (9, "1".to_owned()));
        assert_eq!(ask(&mut answers, "b"), (9, "2".to_owned()));
        answers.forget();
        assert_eq!(ask(&mut answers, "b"), (9, "3".to_owned()));
        let command = ["/broken".to_owned()];
        assert_eq!(answers.failed(), [command.to_vec()]);
        answers.asked_again(&command, Ok(Ran { code: 0, said: "well".to_owned() }));
        assert_eq!(ask(&mut answers, "b"), (0, "well".to_owned()));
        assert_eq!(answers.failed().len(), 0);
        // One that nobody waits for any more.
        answers.asked_again(&command, Ok(Ran { code: 0, said: "late".to_owned() }));
        assert_eq!(ask(&mut answers, "b"), (0, "well".to_owned()));
    }

    #[test]
    fn no_reading_waits_twice_for_one_that_hangs() {
        let (tool, mut answers) = (Tool::default(), Answers::default());
        for state in ["a", "b"] {
            assert_eq!(answers.ask(&tool, &["/hung"], state, worked), Err(Errno::ETIMEDOUT));
            answers.forget();
        }
        assert_eq!(tool.0.get(), 1);
        answers.asked_again(&["/hung".to_owned()], Ok(Ran { code: 0, said: String::new() }));
        answers.ask(&tool, &["/hung"], "a", worked).unwrap();
        answers.forget_all();
        assert_eq!(answers.ask(&tool, &["/hung"], "b", worked), Err(Errno::ETIMEDOUT));
        answers.forget_all();
        assert_eq!(answers.ask(&tool, &["/hung"], "b", worked), Err(Errno::ETIMEDOUT));
        assert_eq!(tool.0.get(), 3);
    }

    #[test]
    fn what_waits_for_its_device_is_not_read_while_a_step_sets_one() {
        let (tool, mut answers) = (Tool::default(), Answers::default());
        let text = |answers: &mut Answers, path| answers.text(&tool, path);
        assert_eq!(text(&mut answers, "/mode").as_deref(), Ok("1"));
        answers.may_ask(false);
        assert_eq!(text(&mut answers, "/mode").as_deref(), Ok("1"));
        assert_eq!(text(&mut answers, "/other").as_deref(), Ok("2"));
        assert_eq!(text(&mut answers, "/gone"), Err(Errno::ENOENT));
        answers.may_ask(true);
        assert_eq!(text(&mut answers, "/mode").as_deref(), Ok("3"));
        answers.forget_all();
        answers.may_ask(false);
        assert_eq!(text(&mut answers, "/mode").as_deref(), Ok("3"));
    }
}
