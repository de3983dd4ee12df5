//! What vendors' tools told, and people's files. Asking a tool takes a second and more, and is in the way of whoever sets
//! the device meanwhile; files of modules' options are many. So both are asked again only when something tells that the
//! answer may have changed: people are heard when they say `apply`.

use super::options;
use crate::errno::Errno;
use crate::observation::Options;
use crate::port::{HostRead, Ran};
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub struct Answers {
    told: BTreeMap<Vec<String>, (String, Ran)>,
    options: BTreeMap<&'static str, Arc<Options>>,
    silent: bool,
}

impl Answers {
    /// What a tool says, or said when `state` was the same: what can be read without it and changes with the answer. What
    /// is no answer is not taken for the tool's word.
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
            Some((then, ran)) if self.silent || then == state => return Ok(ran.clone()),
            None if self.silent => return Err(Errno::EAGAIN),
            _ => {}
        }
        let ran = host.ask(&command)?;
        if is_answer(&ran) {
            self.told.insert(command, (state.to_owned(), ran.clone()));
        }
        Ok(ran)
    }

    /// The options that files of `modprobe.d` give a module, gpuslice's own files left out.
    pub fn options(&mut self, host: &dyn HostRead, module: &'static str) -> Arc<Options> {
        let read = || Arc::new(options::read(host, module));
        Arc::clone(self.options.entry(module).or_insert_with(read))
    }

    pub(super) fn forget(&mut self) {
        self.told.clear();
        self.options.clear();
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

        fn read(&self, _: &str) -> Result<Vec<u8>, Errno> {
            Err(Errno::ENOENT)
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
    fn one_that_is_not_there_is_looked_for_again() {
        let (tool, mut answers) = (Tool::default(), Answers::default());
        for times in 1..=2 {
            assert_eq!(answers.ask(&tool, &["/none"], "", worked), Err(Errno::ENOENT));
            assert_eq!(tool.0.get(), times);
        }
    }

    #[test]
    fn a_failure_is_no_answer() {
        let (tool, mut answers) = (Tool::default(), Answers::default());
        for times in 1..=2 {
            let ran = answers.ask(&tool, &["/broken"], "", worked).unwrap();
            assert_eq!((ran.code, ran.said), (9, times.to_string()));
        }
    }
}
