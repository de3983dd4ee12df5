//! The options of the module, and `/etc/gim_config`: the driver writes it at each load and each change of a mode, in
//! place and without cutting it, so that a shorter text leaves the end of a longer one behind. A word it does not know
//! empties the file (`gim_shim/gim_config.c`).

use super::MOST;
use crate::kernel::Kernel;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use std::collections::BTreeMap;

/// Of a mode: nothing was saved yet.
const UNSAVED: u32 = 9;

/// Parameters that take a number for each GPU.
const PARAMETERS: &[&str] =
    &["fb_sharing_mode", "guard", "log_level", "pf_fb_size", "sch_policy", "vf_num"];

/// Numbers for each GPU, by parameter, and the value of `enabled_devices`.
type Given = (BTreeMap<&'static str, Vec<u32>>, Option<String>);

/// What the driver goes by.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// Parameters as given.
    given: BTreeMap<&'static str, Vec<u32>>,
    /// `enabled_devices`: addresses with `;` between them.
    enabled: Option<String>,
    /// Number of VFs: the last stands for all that follow.
    pub(super) vf_num: Vec<u32>,
    pub(super) nps: u32,
    pub(super) parts: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { given: BTreeMap::new(), enabled: None, vf_num: vec![1], nps: 0, parts: 0 }
    }
}

/// Of a list whose last number stands for all that follow.
fn nth(numbers: &[u32], at: usize) -> Option<u32> {
    numbers.get(at).or_else(|| numbers.last()).copied()
}

impl Settings {
    pub(super) fn vfs(&self, index: usize) -> u16 {
        nth(&self.vf_num, index).and_then(|n| u16::try_from(n).ok()).unwrap_or(1)
    }

    pub(super) fn enables(&self, address: PciAddress) -> bool {
        let address = address.to_string();
        self.enabled.as_ref().is_none_or(|list| list.split(';').any(|one| one == address))
    }

    /// The last number that is written stands for those that are like it.
    fn text(&self) -> String {
        let last = self.vf_num.last();
        let alike = self.vf_num.iter().rev().take_while(|n| Some(*n) == last).count();
        let written = self.vf_num.len() - alike.saturating_sub(1);
        let vfs =
            self.vf_num.iter().take(written).map(u32::to_string).collect::<Vec<_>>().join(",");
        format!(
            "vf_num={vfs}\naccelerator_partition_mode={}\nmemory_partition_mode={}\n",
            self.parts, self.nps
        )
    }
}

fn is_count(n: u32) -> bool {
    (1..=u32::from(MOST)).contains(&n)
}

/// Values out of range are the default of 1.
fn in_range(numbers: Vec<u32>) -> Vec<u32> {
    numbers.into_iter().map(|n| if is_count(n) { n } else { 1 }).collect()
}

fn numbers(list: &str) -> Option<Vec<u32>> {
    list.split(',').map(|n| n.parse().ok()).collect()
}

impl Kernel {
    /// Reads options and file, and writes the file anew.
    pub(super) fn gim_settings(&mut self, module: &str) -> Result<Settings, Errno> {
        let mut settings = Settings::default();
        let created = self.gim_config.is_none();
        match self.gim_config.clone() {
            None => (settings.nps, settings.parts) = (UNSAVED, UNSAVED),
            Some(text) => match parse(&String::from_utf8_lossy(&text)) {
                Ok(saved) => settings = saved,
                Err(word) => {
                    self.printk(format!(
                        "unknown token: {word}. Config file is invalid and will be truncated."
                    ));
                    self.gim_config = Some(Vec::new());
                }
            },
        }
        (settings.given, settings.enabled) = self.gim_given(module)?;
        if let Some(given) = settings.given.get("vf_num") {
            let given = given.clone();
            for bad in given.iter().filter(|n| !is_count(**n)) {
                self.printk(format!("invalid token(vf_num) value: {bad}"));
            }
            let given = in_range(given);
            let differs = |at| nth(&given, at) != nth(&settings.vf_num, at);
            // Modes belong to a number of VFs.
            if (0..given.len()).any(differs) && !created {
                (settings.nps, settings.parts) = (0, 0);
            }
            settings.vf_num = given;
        }
        self.gim_save(&settings);
        Ok(settings)
    }

    /// modprobe hands the module what the files of /etc/modprobe.d and then the kernel's arguments say; of several options the
    /// last counts.
    fn gim_given(&self, module: &str) -> Result<Given, Errno> {
        let (mut given, mut enabled) = (BTreeMap::new(), None);
        for content in self.modprobe_d.values() {
            let text = String::from_utf8_lossy(content);
            let lines = text.lines().filter_map(|line| line.strip_prefix("options "));
            for line in lines {
                let mut words = line.split_whitespace();
                if words.next() != Some(module) {
                    continue;
                }
                for (key, list) in words.filter_map(|word| word.split_once('=')) {
                    // One that the module does not have is logged and passed over.
                    if let Some(name) = PARAMETERS.iter().find(|name| **name == key) {
                        given.insert(*name, numbers(list).ok_or(Errno::EINVAL)?);
                    } else if key == "enabled_devices" {
                        enabled = Some(list.to_owned());
                    }
                }
            }
        }
        for name in PARAMETERS {
            if let Some(list) = self.argument(module, name) {
                given.insert(*name, numbers(&list).ok_or(Errno::EINVAL)?);
            }
        }
        Ok((given, enabled))
    }

    pub(super) fn gim_save(&mut self, settings: &Settings) {
        let text = settings.text();
        let old = self.gim_config.take().unwrap_or_default();
        let rest = old.get(text.len()..).unwrap_or_default();
        self.gim_config = Some([text.as_bytes(), rest].concat());
        self.printk(format!("configurations:\n{text}"));
    }

    /// Names in `/sys/module/gim/parameters`.
    pub(crate) fn gim_parameters() -> &'static [&'static str] {
        PARAMETERS
    }

    /// What a parameter reads: the numbers given and no others (`param_array_get`).
    pub(crate) fn gim_parameter(&self, name: &str) -> Option<String> {
        let given = self.gim.as_ref()?.settings.given.get(name);
        let numbers = given.into_iter().flatten().map(u32::to_string);
        Some(format!("{}\n", numbers.collect::<Vec<_>>().join(",")))
    }
}

/// A word is a key when it begins with an option's name, in any case.
fn parse(text: &str) -> Result<Settings, String> {
    let mut settings = Settings::default();
    let mut words = text.split([' ', '=', '\n', '\t']).filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let is = |key: &str| word.get(..key.len()).is_some_and(|w| w.eq_ignore_ascii_case(key));
        let known = ["vf_num", "accelerator_partition_mode", "memory_partition_mode"];
        let key = known.into_iter().find(|key| is(key)).ok_or_else(|| word.to_owned())?;
        let Some(list) = words.next() else { break };
        let first = numbers(list).and_then(|n| n.first().copied()).unwrap_or_default();
        let mode = if first <= UNSAVED { first } else { 0 };
        match key {
            "vf_num" => settings.vf_num = in_range(numbers(list).unwrap_or_else(|| vec![1])),
            "memory_partition_mode" => settings.nps = mode,
            _ => settings.parts = mode,
        }
    }
    Ok(settings)
}
