//! Options of modules that others wrote (modprobe.d(5)). Of two options of one name a module takes the last, so who writes
//! one has to know whether somebody else does.

use crate::errno::Errno;
use crate::execute::is_own_config;
use crate::observation::{ARGUMENTS, GivenOption, Options, ProblemKind, ReadProblem};
use crate::port::{HostRead, read_text};
use std::collections::BTreeMap;

/// Where modprobe looks (kmod, libkmod/libkmod.c): a file hides those of its name in later ones.
const FOLDERS: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// Options of all modules.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    /// With the module's name, in the order in which modprobe gives them. `-` and `_` are one in both names.
    given: Vec<(String, GivenOption)>,
    unread: Vec<ReadProblem>,
}

impl Given {
    pub fn of(&self, module: &str) -> Options {
        let own = self.given.iter().filter(|(of, _)| of == module);
        let given = own.map(|(_, option)| option.clone()).collect();
        Options { given, unread: self.unread.clone() }
    }

    fn add(&mut self, file: &str, found: Vec<(String, String, String)>) {
        self.given.extend(found.into_iter().map(|(module, name, value)| {
            let name = name.replace('-', "_");
            (module.replace('-', "_"), GivenOption { file: file.to_owned(), name, value })
        }));
    }

    fn unread(&mut self, path: &str, errno: Errno) {
        let path = path.to_owned();
        self.unread.push(ReadProblem { path, why: ProblemKind::Errno(errno) });
    }
}

pub(super) fn read(host: &dyn HostRead) -> Given {
    let mut all = Given::default();
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for folder in FOLDERS {
        match host.list(folder) {
            Ok(names) => {
                for name in names.into_iter().filter(|name| name.ends_with(".conf")) {
                    let path = format!("{folder}/{name}");
                    files.entry(name).or_insert(path);
                }
            }
            Err(Errno::ENOENT) => {}
            Err(errno) => all.unread(folder, errno),
        }
    }
    // By name, whatever folder it is in. The kernel's arguments come behind all files (libkmod/libkmod-config.c,
    // `kmod_config_parse_kcmdline`).
    let files = files.into_values().filter(|path| !is_own_config(path));
    let files = files.map(|path| (path, written as fn(&str) -> _));
    for (path, options) in files.chain([(ARGUMENTS.to_owned(), argued as fn(&str) -> _)]) {
        match read_text(host, &path) {
            Ok(text) => all.add(&path, options(&text)),
            // Gone since, or a link that leads nowhere.
            Err(Errno::ENOENT) => {}
            Err(errno) => all.unread(&path, errno),
        }
    }
    all
}

/// Modules, names and values of the options among the kernel's arguments.
fn argued(text: &str) -> Vec<(String, String, String)> {
    let option = |word: String| {
        let (name, value) = word.split_once('=')?;
        let (module, name) = name.split_once('.')?;
        Some((module.to_owned(), name.to_owned(), value.to_owned()))
    };
    words(text).into_iter().filter_map(option).collect()
}

/// Modules, names and values of the options in a file. A backslash joins lines.
fn written(text: &str) -> Vec<(String, String, String)> {
    let text = text.replace("\\\n", "");
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = words(line).into_iter();
        if words.next().as_deref() != Some("options") {
            continue;
        }
        let Some(module) = words.next() else { continue };
        all.extend(words.filter_map(|word| {
            let (name, value) = word.split_once('=')?;
            Some((module.clone(), name.to_owned(), value.to_owned()))
        }));
    }
    all
}

/// Words of a line; quotes keep one together, and are the kernel's to take off (lib/cmdline.c, `next_arg`).
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
            }
            c => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(found: Vec<(String, String, String)>) -> Vec<(String, String)> {
        let mut all = Given::default();
        all.add("", found);
        let own = all.of("nvidia_x").given.into_iter();
        own.map(|option| (option.name, option.value)).collect()
    }

    fn one(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn options_are_read_as_modprobe_reads_them() {
        let of = |text: &str| of(written(text));
        assert_eq!(
            of("# options nvidia-x a=1\noptions nvidia-x a=1  b=\"x y;z=2\"\noptions other a=3\n"),
            [one("a", "1"), one("b", "x y;z=2")]
        );
        assert_eq!(of("options\tnvidia_x \\\n  a=1\n"), [one("a", "1")]);
        assert_eq!(of("options nvidia_x \"a=1 2\" flag"), [one("a", "1 2")]);
        assert_eq!(of("options nvidia_x a-b=1 a_b=2"), [one("a_b", "1"), one("a_b", "2")]);
        for none in ["", "options", "options nvidia_x", "blacklist nvidia_x", "alias a=1 nvidia_x"]
        {
            assert_eq!(of(none), [], "{none}");
        }
    }

    #[test]
    fn arguments_of_the_kernel_are_options_too() {
        let of = |text: &str| of(argued(text));
        assert_eq!(
            of(
                "quiet nvidia-x.a=1 root=LABEL=x other.a=2 nvidia_x.b=\"x y=z.w\" \"nvidia_x.c=d e\""
            ),
            [one("a", "1"), one("b", "x y=z.w"), one("c", "d e")]
        );
        for none in ["", "nvidia_x", "nvidia_x.a", "nvidia_x=1", "a=nvidia_x.b=1"] {
            assert_eq!(of(none), [], "{none}");
        }
    }
}
