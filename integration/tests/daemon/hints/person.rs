//! A person at a host, who types what a refusal's hint says and nothing else. What is typed is done by the real
//! programs: the command line, libvirt's hook, the agent at libvirt's test driver; what goes into the kernel, by the
//! simulated one.

use super::libvirt::Libvirt;
use super::registry;
use crate::host::{Host, Ran, Vm, until};
use gpuslice_core::refusal::Code;
use serde_json::json;
use std::collections::BTreeMap;

/// What a refusal printed.
#[derive(Debug, Clone)]
pub struct Refused {
    pub code: String,
    pub hint: String,
    pub said: String,
}

impl Refused {
    /// From `error: CODE: …` and `hint: …` of the command line, or the hook's one line.
    pub fn read(said: &str) -> Self {
        let line = said.lines().find_map(|line| {
            line.strip_prefix("error: ").or_else(|| line.strip_prefix("gpuslice: "))
        });
        let code = line.and_then(|line| line.split(": ").next()).unwrap_or_default().to_owned();
        let printed = said.lines().find_map(|line| line.strip_prefix("  hint: "));
        let hint = printed.or_else(|| said.split_once("; try: ").map(|(_, hint)| hint));
        let hint = hint.unwrap_or_else(|| panic!("no hint: {said}")).trim().to_owned();
        Self { code, hint, said: said.to_owned() }
    }
}

/// What of a hint only shows what to look for.
const LOOKS: [&str; 3] = ["dmesg", "journalctl", "ps "];

pub struct Person {
    pub host: Host,
    pub libvirt: Libvirt,
    vms: BTreeMap<String, Vm>,
    /// What the domain's XML was when its start was refused.
    refused_with: Option<(String, String)>,
}

/// What a person does where a hint asks for an edit.
pub type Edit<'a> = &'a mut dyn FnMut(&mut Person, &str);

/// For hints that are commands alone.
pub fn no_edit(_: &mut Person, what: &str) {
    panic!("neither a command nor an edit that is known: {what:?}");
}

impl Person {
    /// At a host whose layout is real, with some domains that ask for nothing.
    pub fn at(sim: &str, config: &str, vms: u8) -> Self {
        let host = Host::start(sim, config);
        host.settle();
        let libvirt = Libvirt::new();
        let mut person = Self { host, libvirt, vms: BTreeMap::new(), refused_with: None };
        for number in 1..=vms {
            person.defines(Vm::new(number));
        }
        person.libvirt.agent_comes(person.host.bus.address());
        person
    }

    pub fn defines(&mut self, vm: Vm) {
        let xml = vm.xml.replace("<domain type='kvm'>", "<domain type='test'>");
        self.libvirt.define(&xml);
        self.vms.insert(vm.name.clone(), vm);
    }

    /// `virsh edit`.
    pub fn edits(&self, name: &str, edit: impl Fn(&str) -> String) {
        let before = self.libvirt.xml(name);
        let after = edit(&before);
        assert_ne!(before, after, "nothing was edited");
        self.libvirt.define(&after);
    }

    /// With the agent away, so that it does not mend the edit before it is met.
    pub fn edits_unseen(&mut self, name: &str, edit: impl Fn(&str) -> String) {
        self.libvirt.agent_goes();
        self.edits(name, edit);
    }

    pub fn agent_comes(&mut self) {
        self.libvirt.agent_comes(self.host.bus.address());
    }

    /// The domain as libvirt hands it to the hook.
    fn vm(&self, name: &str) -> Vm {
        let vm = self.vms.get(name).unwrap_or_else(|| panic!("no domain {name}"));
        Vm { xml: self.libvirt.xml(name), ..vm.clone() }
    }

    /// Does what is typed, which must succeed.
    #[track_caller]
    pub fn does(&mut self, typed: &str) {
        if let Err(refused) = self.types(typed) {
            panic!("{typed}: {}\n{}", refused.said, self.host.log());
        }
    }

    /// Does what is typed.
    pub fn types(&mut self, typed: &str) -> Result<(), Refused> {
        let words = shell_words(typed);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["gpuslice", words @ ..] | ["sudo", "gpuslice", words @ ..] => {
                told(&self.host.cli(words))
            }
            ["virsh", "start", name] => self.starts(name),
            ["virsh", "shutdown", name] => {
                self.host.stop_vm(&self.vm(name));
                self.libvirt.stopped(name);
                Ok(())
            }
            ["virsh", "dumpxml", name, ">", file] => {
                std::fs::write(self.host.path(file), self.libvirt.xml(name)).unwrap();
                Ok(())
            }
            ["virsh", "define", file] => {
                self.libvirt.define(&std::fs::read_to_string(self.host.path(file)).unwrap());
                Ok(())
            }
            ["virsh", "numatune", name, "--nodeset", nodes, "--config"] => {
                self.edits(name, |xml| on_nodes(xml, nodes));
                Ok(())
            }
            ["virsh", "undefine", name] => {
                self.libvirt.undefine(name);
                Ok(())
            }
            ["kill", pid] => {
                self.host.outside(&json!({"do": "kill", "pid": pid.parse::<u32>().unwrap()}));
                Ok(())
            }
            ["echo", data, ">", file] => {
                self.host.outside(&json!({"do": "write", "file": file, "data": data}));
                Ok(())
            }
            ["modprobe", "-r", name] => {
                self.host.outside(&json!({"do": "modprobe", "name": name, "remove": true}));
                Ok(())
            }
            ["modprobe", name] => {
                self.host.outside(&json!({"do": "modprobe", "name": name, "remove": false}));
                Ok(())
            }
            ["systemctl", "start" | "restart", "gpusliced"] => {
                self.host.start_daemon();
                self.host.settle();
                Ok(())
            }
            _ => panic!("no such command: {typed}"),
        }
    }

    fn starts(&mut self, name: &str) -> Result<(), Refused> {
        let vm = self.vm(name);
        let ran = self.host.hook(&vm, "prepare");
        if ran.code != Some(0) {
            self.refused_with = Some((name.to_owned(), vm.xml));
            return Err(Refused::read(&ran.err));
        }
        self.host.hook(&vm, "started").quiet();
        self.libvirt.started(name);
        Ok(())
    }

    /// Types an order, and it is refused with this code.
    #[track_caller]
    pub fn refused(&mut self, code: Code, order: &str) -> Refused {
        match self.types(order) {
            Ok(()) => panic!("{order} was not refused"),
            Err(refused) => {
                assert_eq!(refused.code, code.as_str(), "{}", refused.said);
                refused
            }
        }
    }

    /// Types an order, which is refused with this code; does what the hint says; then the order works.
    #[track_caller]
    pub fn mends(&mut self, code: Code, order: &str) {
        self.mends_by(code, order, 0, &mut no_edit);
    }

    /// The same by a way out that is not the first, or that is an edit.
    #[track_caller]
    pub fn mends_by(&mut self, code: Code, order: &str, way: usize, edit: Edit<'_>) {
        let refused = self.refused(code, order);
        println!("{code}: {order}: {}", refused.hint);
        if !self.follows(&refused.hint, order, way, edit) {
            self.does(order);
        }
    }

    /// Does what a hint says. Whether the order was given again by that.
    #[track_caller]
    pub fn follows(&mut self, hint: &str, order: &str, way: usize, edit: Edit<'_>) -> bool {
        let ways = cut(hint, "; or ");
        let hint = ways.get(way).unwrap_or_else(|| panic!("no way out: {hint}")).as_str();
        registry::follows(hint);
        let mut again = false;
        let steps = hint.replace("; then ", ", then ");
        for step in cut(&steps, ", then ") {
            let parts = cut(&step, " (");
            let (step, remark) = (parts[0].as_str(), parts.get(1).map_or("", String::as_str));
            let verb = |typed: &str| {
                let words: Vec<&str> = typed.split_whitespace().take(2).collect();
                words.join(" ")
            };
            again = true;
            if LOOKS.iter().any(|look| step.starts_with(look)) {
                for what in step.split(", ").skip(1) {
                    edit(self, what);
                }
                again = false;
            } else if ["the same again", "start it again", "try again"].contains(&step) {
                self.does(order);
            } else if step == "the same again without --live" {
                self.does(order.strip_suffix(" --live").unwrap());
            } else if let Some(typed) = step.strip_suffix(", with one of gpuslice profiles") {
                let offered = self.host.ask(&["profiles"]);
                let free = |row: &&serde_json::Value| row["free"].as_u64() > Some(0);
                let row = offered.as_array().unwrap().iter().find(free).unwrap();
                self.does(&typed.replace("PROFILE", row["profile"].as_str().unwrap()));
                again = verb(order) == verb(typed);
            } else if step.starts_with("virsh edit ") || !is_command(step) {
                edit(self, step);
                again = false;
            } else {
                if let (true, Some((name, xml))) =
                    (remark.starts_with("the agent"), self.refused_with.clone())
                {
                    until("the agent's edit", || self.libvirt.xml(&name) != xml);
                }
                self.does(step);
                again = verb(order) == verb(step);
            }
        }
        again
    }

    /// A device that another program writes, with an alias of its own.
    pub fn passes(&self, name: &str, address: &str) {
        let device = hostdev(address).replace("</source>", "</source><alias name='ua-other'/>");
        self.edits(name, |xml| xml.replace("</devices>", &format!("{device}</devices>")));
    }

    /// The only home of a domain's claim.
    pub fn home(&self, name: &str) -> String {
        let rows = self.host.ask(&["claims"]);
        let of = |row: &&serde_json::Value| row["owner_name"] == json!(name);
        let row = rows.as_array().unwrap().iter().find(of).unwrap_or_else(|| panic!("{rows}"));
        row["home"][0].as_str().unwrap().to_owned()
    }
}

/// A domain whose memory is on these nodes.
pub fn on_nodes(xml: &str, nodes: &str) -> String {
    let tuned = format!("<numatune><memory mode='strict' nodeset='{nodes}'/></numatune>");
    let (before, after) = match (xml.split_once("<numatune>"), xml.split_once("</numatune>")) {
        (Some((before, _)), Some((_, after))) => (before, after),
        _ => {
            let at = xml.find("<os>").unwrap();
            (&xml[..at], &xml[at..])
        }
    };
    format!("{before}{tuned}{after}")
}

/// Parts of a text between separators that stand in no quotes.
fn cut(text: &str, between: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut rest, mut quoted) = (text, false);
    while let Some(c) = rest.chars().next() {
        if let (false, Some(after)) = (quoted, rest.strip_prefix(between)) {
            parts.push(String::new());
            rest = after;
            continue;
        }
        quoted ^= c == '\'' && !parts[parts.len() - 1].ends_with('\\');
        let last = parts.len() - 1;
        parts[last].push(c);
        rest = &rest[c.len_utf8()..];
    }
    parts
}

/// What a shell makes of a line.
fn shell_words(line: &str) -> Vec<String> {
    let quoted = |word: &String| {
        let mut out = String::new();
        let mut inside = false;
        let mut chars = word.chars();
        while let Some(c) = chars.next() {
            match c {
                '\'' => inside = !inside,
                '\\' if !inside => out.extend(chars.next()),
                other => out.push(other),
            }
        }
        out
    };
    cut(line.trim(), " ").iter().filter(|word| !word.is_empty()).map(quoted).collect()
}

fn is_command(step: &str) -> bool {
    let first = step.split(' ').next().unwrap_or_default();
    ["gpuslice", "virsh", "kill", "echo", "modprobe", "systemctl", "sudo"].contains(&first)
}

fn told(ran: &Ran) -> Result<(), Refused> {
    if ran.code == Some(0) { Ok(()) } else { Err(Refused::read(&ran.err)) }
}

/// A PCI device as libvirt writes it.
pub fn source(address: &str) -> String {
    let (domain, rest) = address.split_once(':').unwrap();
    let (bus, rest) = rest.split_once(':').unwrap();
    let (slot, function) = rest.split_once('.').unwrap();
    format!("<address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>")
}

/// A plain hostdev.
pub fn hostdev(address: &str) -> String {
    let source = source(address);
    format!(
        "<hostdev mode='subsystem' type='pci' managed='yes'><source>{source}</source></hostdev>"
    )
}
