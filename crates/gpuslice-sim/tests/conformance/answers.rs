//! The primitives of the scripts on a simulated machine; `on-kernel.sh` beside the scripts says what each does.

use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{MdevUuid, PciAddress, SliceId};
use gpuslice_core::port::{HostRead, HostWrite, Written};
use gpuslice_sim::{DriverShape, Fault, HostFile, Kernel, MdevOn, MdevRule, MdevShape};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where options go that a script gives to modprobe.
const ARGUMENTS: &str = "/etc/modprobe.d/arguments.conf";

/// What a primitive prints, and whether it succeeds.
pub struct Answer {
    pub done: bool,
    pub text: String,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self { done: true, text }
    }
}

impl From<bool> for Answer {
    fn from(done: bool) -> Self {
        Self { done, text: String::new() }
    }
}

/// A machine, and what a script has found out about it.
pub struct Machine {
    kernel: Kernel,
    /// As the list's file says, and as it is now.
    cards: HostFile,
    host: HostFile,
    /// Where `tool.out` goes.
    folder: PathBuf,
    events: Vec<String>,
    holders: BTreeMap<String, u32>,
    /// How the last unload began.
    unload: String,
    pub facts: Vec<String>,
    pub failures: Vec<String>,
}

fn word(result: Result<Written, Errno>) -> String {
    match result {
        Ok(Written::Done) => "ok".to_owned(),
        Ok(Written::Blocked) => "blocks".to_owned(),
        Err(errno) => errno.name().unwrap_or("?").to_owned(),
    }
}

fn text_or_name(content: Result<Vec<u8>, Errno>) -> String {
    content
        .map_or_else(|errno| word(Err(errno)), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// As the C library begins it.
fn sentence(errno: Errno) -> String {
    let mut letters = errno.text().chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

fn line(text: &str) -> Answer {
    format!("{text}\n").into()
}

fn lines<'a>(all: impl IntoIterator<Item = &'a String>) -> String {
    all.into_iter().map(|line| format!("{line}\n")).collect()
}

fn pci(text: &str) -> PciAddress {
    text.parse().unwrap()
}

/// A device by its folder: an address or a UUID is the last of it.
fn device(path: &str) -> SliceId {
    let name = path.rsplit('/').next().unwrap();
    name.parse()
        .map_or_else(|_| SliceId::Mdev(MdevUuid(uuid::Uuid::try_parse(name).unwrap())), SliceId::Vf)
}

fn mdevs(host: &mut HostFile) -> impl Iterator<Item = &mut MdevShape> {
    host.functions.iter_mut().filter_map(|function| function.mdev.as_mut())
}

impl Machine {
    pub fn new(host: &str, folder: &Path) -> Self {
        let host = HostFile::parse(host).unwrap();
        Self {
            kernel: Kernel::from_host(&host),
            cards: host.clone(),
            host,
            folder: folder.to_owned(),
            events: Vec::new(),
            holders: BTreeMap::new(),
            unload: String::new(),
            facts: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub fn answer(&mut self, question: &[&str]) -> Answer {
        let (primitive, words) = question.split_first().unwrap();
        match (*primitive, words) {
            ("fact", [name, value]) => {
                self.facts.push(format!("{name}\t{value}"));
                true.into()
            }
            ("fail", [why]) => {
                self.failures.push((*why).to_owned());
                true.into()
            }
            ("pass", []) => self.pass().into(),
            ("w" | "errno_of" | "text_of" | "all_of" | "bytes_of" | "names", _)
            | ("link_of" | "mode_of" | "present" | "put" | "remove", _) => {
                self.file(primitive, words)
            }
            ("cards", [kinds, drivers @ ..]) => self.load_cards(kinds, drivers),
            ("load", [module, options @ ..]) => self.load(module, options).into(),
            ("unload", [module]) => (self.kernel.unload_module(module) == Ok(Written::Done)).into(),
            ("begin_unload", [module]) => {
                self.unload = word(self.kernel.unload_module(module));
                true.into()
            }
            ("unload_stands", []) => {
                (if self.unload == "blocks" { "waits\n" } else { "" }).to_owned().into()
            }
            ("end_write" | "end_unload", []) => {
                let ended = self.kernel.poll_blocked();
                (ended.len() == 1 && ended.iter().all(|one| one.result.is_ok())).into()
            }
            ("events_mark", []) => {
                self.take_events();
                line(&self.events.len().to_string())
            }
            ("events_since", [from]) => {
                self.take_events();
                lines(self.events.iter().skip(from.parse().unwrap())).into()
            }
            ("log_mark", []) => line(&self.kernel.log_from(0).len().to_string()),
            ("log_since", [from]) => {
                let said = self.kernel.log_from(from.parse().unwrap()).iter();
                said.map(|line| format!("{}\n", line.text)).collect::<String>().into()
            }
            ("keep_open", [name, path]) => {
                let pid = 4711 + u32::try_from(self.holders.len()).unwrap();
                self.holders.insert((*name).to_owned(), pid);
                self.kernel.open(pid, "qemu-system-x86", device(path)).is_ok().into()
            }
            ("let_go", [name]) => {
                self.kernel.kill(self.holders[*name]);
                true.into()
            }
            ("opens", paths) => {
                let mut devices = paths.iter().map(|path| device(path));
                let open = |slice| self.kernel.open(4710, "qemu-system-x86", slice);
                let opened = devices.try_for_each(open);
                paths.iter().for_each(|path| self.kernel.close(4710, device(path)));
                line(&word(opened.map(|()| Written::Done)))
            }
            ("tool", command) => line(&self.tool(command)),
            _ => self.of_a_card(primitive, words),
        }
    }

    /// Time passes up to the next thing that falls due.
    fn pass(&mut self) -> bool {
        let due = self.kernel.next_timer();
        if let Some(due) = due {
            self.kernel.advance(due - self.kernel.now_ms());
        }
        due.is_some()
    }

    fn take_events(&mut self) {
        let told = self.kernel.take_events();
        let told = told.iter().map(|e| format!("{} {} ({})", e.action, e.devpath, e.subsystem));
        self.events.extend(told);
    }

    fn file(&mut self, primitive: &str, words: &[&str]) -> Answer {
        let kernel = &mut self.kernel;
        match (primitive, words) {
            ("w", [value, file]) => {
                (kernel.write(file, format!("{value}\n").as_bytes()) == Ok(Written::Done)).into()
            }
            ("errno_of", [value, file]) => {
                line(&word(kernel.write(file, format!("{value}\n").as_bytes())))
            }
            ("text_of", [file]) => {
                let text = text_or_name(kernel.read(file));
                line(text.lines().next().unwrap_or_default())
            }
            ("all_of", [file]) => match kernel.read(file) {
                Ok(content) => String::from_utf8(content).unwrap().into(),
                Err(_) => false.into(),
            },
            ("bytes_of", [file]) => {
                let bytes = kernel.read(file).unwrap_or_default();
                bytes.iter().map(|byte| format!("{byte:02x} ")).collect::<String>().into()
            }
            ("names", [folder]) => {
                let mut names = kernel.list(folder).unwrap_or_default();
                names.sort();
                lines(&names).into()
            }
            ("link_of", [path]) => kernel.link(path).map_or(false.into(), |to| line(&to)),
            ("mode_of", [file]) => {
                kernel.permissions(file).map_or(false.into(), |bits| line(&format!("{bits:o}")))
            }
            ("present", [path]) => {
                let (folder, name) = path.rsplit_once('/').unwrap();
                kernel.list(folder).is_ok_and(|names| names.iter().any(|n| n == name)).into()
            }
            ("put", [text, file]) => kernel.replace(file, text.as_bytes()).is_ok().into(),
            // As `rm -f`.
            ("remove", [file]) => matches!(kernel.delete(file), Ok(()) | Err(Errno::ENOENT)).into(),
            _ => panic!("{primitive} {words:?}: no such primitive"),
        }
    }

    /// The cards of the list's file, so many of them as are asked for and with the keys that are given.
    fn load_cards(&mut self, kinds: &str, drivers: &[&str]) -> Answer {
        let mut host = self.cards.clone();
        let mut cards = Vec::new();
        for kind in kinds.split(',') {
            let (name, keys) = kind.split_once(':').unwrap_or((kind, ""));
            let count = name.split_once('*').map_or(1, |(_, count)| count.parse().unwrap());
            cards.extend(std::iter::repeat_n(keys, count));
        }
        assert!(cards.len() <= host.functions.len(), "the list's file has fewer cards");
        host.functions.truncate(cards.len());
        for (function, keys) in host.functions.iter_mut().zip(cards) {
            for (key, value) in keys.split(':').filter_map(|key| key.split_once('=')) {
                let number: u16 = value.parse().unwrap();
                match key {
                    "vfs" => function.sriov.as_mut().unwrap().total_vfs = number,
                    "offset" => function.sriov.as_mut().unwrap().offset = number,
                    // What the card remembers without power: the mode.
                    "nvram" => {
                        function.mdev.as_mut().unwrap().mig.as_mut().unwrap().on = number == 1
                    }
                    _ => panic!("no key {key} of a card here"),
                }
            }
        }
        if drivers.iter().any(|driver| driver.ends_with(" framework=mdev")) {
            for mdev in mdevs(&mut host).filter(|mdev| mdev.on == MdevOn::VfType) {
                (mdev.on, mdev.rule) = (MdevOn::Vf, MdevRule::SameType);
            }
        }
        self.kernel = Kernel::from_host(&host);
        self.host = host;
        true.into()
    }

    fn become_host(&mut self, change: impl FnOnce(&mut HostFile)) {
        change(&mut self.host);
        self.kernel.become_host(self.host.clone());
    }

    /// What modprobe says when the module cannot be loaded.
    fn load(&mut self, module: &str, options: &[&str]) -> String {
        let first = options.contains(&"generation=8");
        let of_gim = |host: &HostFile| host.drivers.iter().position(|d| d.gim.is_some());
        if let Some(gim) =
            of_gim(&self.host).filter(|at| self.host.drivers[*at].bind_files != first)
        {
            self.become_host(|host| host.drivers[gim].bind_files = first);
        }
        let (old, plain) = (options.contains(&"old_files=1"), options.contains(&"list_header=0"));
        let is = |d: &DriverShape| (d.old_files, d.list_header) == (old, !plain);
        let of_name = |d: &DriverShape| d.name == module && !is(d);
        if let Some(at) = self.host.drivers.iter().position(of_name) {
            self.become_host(|host| {
                let driver = &mut host.drivers[at];
                (driver.old_files, driver.list_header) = (old, !plain);
            });
        }
        let options = format!("options {module} {}\n", options.join(" "));
        self.kernel.replace(ARGUMENTS, options.as_bytes()).unwrap();
        let loaded = self.kernel.load_module(module);
        loaded.map_or_else(sentence, |()| String::new())
    }

    /// How it ended.
    fn tool(&mut self, command: &[&str]) -> String {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let ran = self.kernel.run(&command).unwrap();
        fs::write(self.folder.join("tool.out"), ran.said).unwrap();
        ran.code.to_string()
    }

    /// What goes wrong with a card, what is set, and what only its driver knows.
    fn of_a_card(&mut self, primitive: &str, words: &[&str]) -> Answer {
        let (nth, times) = (1, 1);
        match (primitive, words) {
            ("refuse_enable", [card, errno]) => {
                let errnos = [Errno::ENOMEM, Errno::EIO];
                let errno = *errnos.iter().find(|one| one.name() == Some(errno)).unwrap();
                self.kernel.inject(Fault::Enable { pf: pci(card), nth, times, errno });
            }
            ("refuse_lock", [card]) => {
                self.kernel.inject(Fault::Tool { pf: pci(card), nth, times, unbinds: false });
            }
            ("refuse_vgpu", [card]) => {
                self.kernel.inject(Fault::NotReady { pf: pci(card), nth, times });
            }
            ("fewer_vfs" | "computes", [_, "0"]) => self.kernel.clear_faults(),
            ("fewer_vfs", [card, vfs]) => {
                self.kernel.inject(Fault::Fewer { pf: pci(card), vfs: vfs.parse().unwrap() });
            }
            ("computes", [card, _]) => self.kernel.inject(Fault::Computes { pf: pci(card) }),
            ("slow_probe", [card, ms]) => {
                let (function, ms) = (pci(card), ms.parse().unwrap());
                self.kernel.inject(Fault::Probes { function, ms });
            }
            // A reset takes time, which passes only while the script waits; so does the start of a VM.
            ("hold_reset", [_, _]) | ("nvidia_option", ["init_window_ms", _]) => {}
            ("nvidia_option", ["equal_size", "1"]) => {
                self.become_host(|host| mdevs(host).for_each(|m| m.rule = MdevRule::SameSize));
            }
            ("nvidia_option", ["autoremove_ms", ms]) => {
                let ms = ms.parse().unwrap();
                self.become_host(|host| mdevs(host).for_each(|m| m.removes_after_ms = Some(ms)));
            }
            ("unplug", [card]) => drop(self.kernel.unplug(pci(card))),
            ("plug", [card]) => drop(self.kernel.plug(pci(card))),
            _ => return line(&self.told(primitive, words)),
        }
        true.into()
    }

    fn told(&mut self, primitive: &str, words: &[&str]) -> String {
        match (primitive, words) {
            ("wedged", [card]) => {
                let wedged = self.kernel.wedged();
                let of = |nth: u16| {
                    let link = format!("/sys/bus/pci/devices/{card}/virtfn{nth}");
                    let link = self.kernel.link(&link).unwrap_or_default();
                    wedged.iter().any(|vf| link.ends_with(&vf.to_string()))
                };
                let indices = (0..64).filter(|nth| of(*nth)).map(|nth| nth.to_string());
                indices.collect::<Vec<_>>().join(" ")
            }
            ("mixed" | "mig", [card]) => {
                let line = if primitive == "mig" { "Current" } else { "vGPU Heterogeneous Mode" };
                let query = self.asked(&["-q", "-i", card]);
                let on = |text: &str| text.contains(line) && text.ends_with(": Enabled");
                u8::from(query.lines().any(on)).to_string()
            }
            ("gpu_instances", [card]) => {
                let listed = self.asked(&["mig", "-i", card, "-lgi"]);
                listed.lines().filter(|line| line.starts_with('|')).count().to_string()
            }
            ("scheduler", [card]) => match self.kernel.scheduler(pci(card)) {
                Some(0x11) => "Fixed Share",
                Some(0x01) => "Equal Share",
                Some(_) => "Best Effort",
                None => "",
            }
            .to_owned(),
            ("resets_by_reading", []) => self.kernel.gpu_resets_by_reading().to_string(),
            _ => panic!("{primitive} {words:?}: no such primitive"),
        }
    }

    fn asked(&mut self, arguments: &[&str]) -> String {
        let words = std::iter::once(&"/usr/bin/nvidia-smi").chain(arguments);
        let command: Vec<String> = words.map(|word| (*word).to_owned()).collect();
        self.kernel.run(&command).unwrap().said
    }
}
