//! Options of modules that others wrote (modprobe.d(5)). Of two options of one name a module takes the last, so who writes
//! one has to know whether somebody else does.

use crate::errno::Errno;
use crate::execute::is_own_config;
use crate::observation::{GivenOption, Options, ProblemKind, ReadProblem};
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

pub(super) fn read(host: &dyn HostRead, module: &str) -> Options {
    let mut options = Options::default();
    let unread = |path: String, errno| ReadProblem { path, why: ProblemKind::Errno(errno) };
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
            Err(errno) => options.unread.push(unread(folder.to_owned(), errno)),
        }
    }
    // By name, whatever folder it is in.
    for path in files.into_values().filter(|path| !is_own_config(path)) {
        match read_text(host, &path) {
            Ok(text) => {
                let own = given(&text, module).into_iter();
                options.given.extend(own.map(|(name, value)| GivenOption {
                    file: path.clone(),
                    name,
                    value,
                }));
            }
            // Gone since, or a link that leads nowhere.
            Err(Errno::ENOENT) => {}
            Err(errno) => options.unread.push(unread(path, errno)),
        }
    }
    options
}

/// Names and values of a module's options. `-` and `_` are one in its name, and a backslash joins lines.
fn given(text: &str, module: &str) -> Vec<(String, String)> {
    let text = text.replace("\\\n", "");
    let same = |name: &str| name.replace('-', "_") == module.replace('-', "_");
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = words(line).into_iter();
        if words.next().as_deref() != Some("options") || !words.next().is_some_and(|w| same(&w)) {
            continue;
        }
        all.extend(words.filter_map(|word| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
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

    fn of(text: &str) -> Vec<(String, String)> {
        given(text, "nvidia_x")
    }

    #[test]
    fn options_are_read_as_modprobe_reads_them() {
        let one = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            of("# options nvidia-x a=1\noptions nvidia-x a=1  b=\"x y;z=2\"\noptions other a=3\n"),
            [one("a", "1"), one("b", "x y;z=2")]
        );
        assert_eq!(of("options\tnvidia_x \\\n  a=1\n"), [one("a", "1")]);
        assert_eq!(of("options nvidia_x \"a=1 2\" flag"), [one("a", "1 2")]);
        for none in ["", "options", "options nvidia_x", "blacklist nvidia_x", "alias a=1 nvidia_x"]
        {
            assert_eq!(of(none), [], "{none}");
        }
    }
}
