//! `nvidia-smi`, as much of it as drives vGPUs: its commands, texts and exit statuses.

use crate::host_file::InstanceShape;
use crate::kernel::Kernel;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Ran;
use std::fmt::Write;

/// What a command line asks for.
#[derive(Debug, Default)]
struct Asked<'a> {
    gpu: Option<&'a str>,
    verbose: bool,
    action: Action<'a>,
}

#[derive(Debug, Default)]
enum Action<'a> {
    #[default]
    List,
    Query,
    MigMode,
    Types {
        creatable: bool,
    },
    Instances,
    Mig(&'a str),
    Mixed(&'a str),
    Scheduler(&'a str),
    Make(&'a str),
    Drop(Option<&'a str>),
    Nothing,
}

fn asked(arguments: &[String]) -> Asked<'_> {
    let mut asked = Asked::default();
    let (mut words, mut rest) = (Vec::new(), arguments.iter().map(String::as_str));
    while let Some(word) = rest.next() {
        let mut value = || rest.next().unwrap_or_default();
        match word {
            "-i" | "--id" => asked.gpu = Some(value()),
            "-v" => asked.verbose = true,
            "-mig" => asked.action = Action::Mig(value()),
            "-shm" => asked.action = Action::Mixed(value()),
            "-p" => asked.action = Action::Scheduler(value()),
            "-cgi" => asked.action = Action::Make(value()),
            "-dgi" => asked.action = Action::Drop(None),
            "-gi" => asked.action = Action::Drop(Some(value())),
            // A compute instance goes with its GPU instance.
            "-dci" => asked.action = Action::Nothing,
            "-lgi" => asked.action = Action::Instances,
            "-s" => asked.action = Action::Types { creatable: false },
            "-c" => asked.action = Action::Types { creatable: true },
            "-q" => asked.action = Action::Query,
            "--query-gpu=mig.mode.current" => asked.action = Action::MigMode,
            "--format=csv,noheader" => {}
            other => words.push(other),
        }
    }
    asked
}

/// The tool's own words and status for the driver's answer.
fn said(errno: Errno) -> (i32, &'static str) {
    match errno {
        Errno::EBUSY => (19, "In use by another client"),
        Errno::EOPNOTSUPP => (3, "Not Supported"),
        Errno::ENOSPC => (23, "Insufficient Resources"),
        Errno::ENOENT => (6, "Not Found"),
        _ => (2, "Invalid Argument"),
    }
}

/// A list of no instances ends as one that was not found.
fn listed(action: &Action<'_>, ran: Ran) -> Ran {
    if matches!(action, Action::Instances) && ran.code == 0 && ran.said.is_empty() {
        return Ran { code: 6, said: "No GPU instances found: Not Found\n".to_owned() };
    }
    ran
}

/// `00000000:41:00.0`.
fn bus_id(address: PciAddress) -> String {
    format!("0000{address}").to_uppercase()
}

/// Exit status when a GPU fell off the bus.
const LOST: i32 = 15;

/// Where what it tells of a GPU comes to vGPUs.
const VGPUS: &str = "    vGPU Device Capability\n";

fn no_handle(pf: PciAddress) -> String {
    format!("Unable to determine the device handle for GPU {}: GPU is lost.\n", bus_id(pf))
}

fn field(text: &mut String, indent: usize, key: &str, value: &str) {
    // Writing to a text cannot fail.
    let _ = writeln!(text, "{:indent$}{key:<width$}: {value}", "", width = 38 - indent);
}

impl Kernel {
    /// Runs it.
    pub(crate) fn nvidia_smi(&mut self, arguments: &[String]) -> Ran {
        let asked = asked(arguments);
        let (mut status, mut all) = (0, String::new());
        for (index, pf) in match self.chosen(asked.gpu) {
            Ok(gpus) => gpus,
            Err(ran) => return ran,
        } {
            if self.lost(pf) {
                status = LOST;
                all.push_str(&no_handle(pf));
                continue;
            }
            match self.smi_set(index, pf, &asked.action, &mut all) {
                Ok(()) => all.push_str(&self.smi_show(index, pf, &asked)),
                Err((what, errno)) => {
                    let (code, why) = said(errno);
                    let _ = writeln!(all, "{what}: {why}");
                    return Ran { code, said: all };
                }
            }
        }
        listed(&asked.action, Ran { code: status, said: all })
    }

    /// Runs it for what it tells alone.
    pub(crate) fn nvidia_smi_tells(&self, arguments: &[String]) -> Ran {
        let asked = asked(arguments);
        match self.chosen(asked.gpu) {
            Ok(gpus) => {
                let (mut code, mut said) = (0, String::new());
                for (index, pf) in gpus {
                    if self.lost(pf) {
                        code = LOST;
                        said.push_str(&no_handle(pf));
                        continue;
                    }
                    let shown = self.smi_show(index, pf, &asked);
                    if matches!(asked.action, Action::Query) && self.breaks_off(pf) {
                        // Behind its first mode.
                        let (begin, _) = shown.split_once(VGPUS).unwrap_or_default();
                        said.push_str(begin);
                        return Ran { code: LOST, said };
                    }
                    said.push_str(&shown);
                }
                listed(&asked.action, Ran { code, said })
            }
            Err(ran) => ran,
        }
    }

    fn chosen(&self, id: Option<&str>) -> Result<Vec<(usize, PciAddress)>, Ran> {
        let gpus: Vec<(usize, PciAddress)> = self.smi_gpus().into_iter().enumerate().collect();
        let fits = |(index, pf): &(usize, PciAddress)| {
            id.is_none_or(|id| {
                let id = id.to_lowercase();
                id == index.to_string() || id == pf.to_string() || id == format!("0000{pf}")
            })
        };
        let chosen: Vec<_> = gpus.into_iter().filter(fits).collect();
        if chosen.is_empty() {
            return Err(Ran { code: 6, said: "No devices were found\n".to_owned() });
        }
        Ok(chosen)
    }

    fn smi_set(
        &mut self,
        index: usize,
        pf: PciAddress,
        action: &Action<'_>,
        text: &mut String,
    ) -> Result<(), (String, Errno)> {
        let bus = bus_id(pf);
        let word = |mode: &str| if mode == "0" { "Disabled" } else { "Enabled" };
        match action {
            Action::Mig(mode) => {
                let done = self.set_mig(pf, *mode != "0");
                let waits =
                    done.map_err(|errno| (format!("Unable to set MIG Mode for GPU {bus}"), errno))?;
                let _ = match waits {
                    None => writeln!(text, "{} MIG Mode for GPU {bus}", word(mode)),
                    Some(why) => {
                        let state = if *mode == "0" { "disable" } else { "enable" };
                        let what = format!("MIG mode is in pending {state} state for GPU {bus}");
                        writeln!(text, "Warning: {what}:{why}\nIt comes with a reset of {bus}.")
                    }
                };
                // However it went.
                text.push_str("All done.\n");
            }
            Action::Mixed(mode) => {
                let done = self.set_mixed(pf, *mode != "0");
                done.map_err(|errno| {
                    (format!("Failed to set vGPU heterogeneous mode for GPU {bus}"), errno)
                })?;
                let _ = writeln!(text, "{} vGPU heterogeneous mode for GPU {bus}", word(mode));
            }
            Action::Scheduler(policy) => {
                if let Some(card) = self.cards.get_mut(&pf) {
                    (*policy).clone_into(&mut card.scheduler);
                }
            }
            Action::Make(profiles) => {
                for (made, profile) in profiles.split(',').enumerate() {
                    let done = match self.half_made(pf, made) {
                        true => Err(Errno::EBUSY),
                        false => self.make_instance(pf, profile),
                    };
                    let (id, InstanceShape { name, id: number, .. }) = done.map_err(|errno| {
                        let what = format!(
                            "Unable to create a GPU instance on GPU {index:2} using profile {profile}"
                        );
                        (what, errno)
                    })?;
                    let _ = writeln!(
                        text,
                        "Successfully created GPU instance ID {id:2} on GPU {index:2} using profile MIG {name} (ID {number:2})"
                    );
                }
            }
            Action::Drop(ids) => {
                let ids: Vec<u32> = match ids {
                    Some(ids) => ids.split(',').filter_map(|id| id.parse().ok()).collect(),
                    None => self.card_set(pf).instances.into_keys().collect(),
                };
                for id in ids {
                    self.drop_instance(pf, id).map_err(|errno| {
                        let what =
                            format!("Unable to destroy GPU instance ID {id:2} from GPU {index:2}");
                        (what, errno)
                    })?;
                    let _ = writeln!(
                        text,
                        "Successfully destroyed GPU instance ID {id:2} from GPU {index:2}"
                    );
                }
            }
            Action::List
            | Action::Query
            | Action::MigMode
            | Action::Types { .. }
            | Action::Instances
            | Action::Nothing => {}
        }
        Ok(())
    }

    fn smi_show(&self, index: usize, pf: PciAddress, asked: &Asked<'_>) -> String {
        match asked.action {
            Action::List => format!("GPU {index}: {}\n", bus_id(pf)),
            Action::Query => self.smi_query(pf),
            Action::MigMode => format!("{}\n", self.smi_mig(pf, self.card_set(pf).mig)),
            Action::Types { creatable } => self.smi_types(pf, creatable, asked.verbose),
            Action::Instances => self.smi_instances(index, pf),
            _ => String::new(),
        }
    }

    fn smi_mig(&self, pf: PciAddress, on: bool) -> &'static str {
        match self.card_shape(pf).and_then(|shape| shape.mig.as_ref()) {
            None => "N/A",
            Some(_) if on => "Enabled",
            Some(_) => "Disabled",
        }
    }

    /// `-q`, as far as vGPUs go.
    fn smi_query(&self, pf: PciAddress) -> String {
        let (shape, set) = (self.card_shape(pf), self.card_set(pf));
        let untold = self.untold(pf);
        let mig = |on: bool| untold.unwrap_or_else(|| self.smi_mig(pf, on));
        let able = shape.is_some_and(|shape| !shape.sizes.is_empty());
        let mixed = match (able && !set.mig, set.mixed) {
            (false, _) => "N/A",
            (true, false) => "Disabled",
            (true, true) => "Enabled",
        };
        let mixed = untold.unwrap_or(mixed);
        let mut text = format!("GPU {}\n    MIG Mode\n", bus_id(pf));
        field(&mut text, 8, "Current", mig(set.mig));
        field(&mut text, 8, "Pending", mig(self.next_mig(pf)));
        text.push_str(VGPUS);
        let able = if able { "Supported" } else { "Not Supported" };
        field(&mut text, 8, "Heterogeneous Time-Slice Sizes", able);
        text.push_str("    GPU Virtualization Mode\n");
        field(&mut text, 8, "vGPU Heterogeneous Mode", mixed);
        text.push('\n');
        text
    }

    /// `mig -lgi`.
    fn smi_instances(&self, index: usize, pf: PciAddress) -> String {
        let shape = self.card_shape(pf).and_then(|shape| shape.mig.as_ref());
        let mut text = String::new();
        for (id, instance) in self.card_set(pf).instances {
            let profiles = shape.map(|mig| mig.profiles.as_slice()).unwrap_or_default();
            let Some(profile) = profiles.iter().find(|p| p.id == instance.profile) else {
                continue;
            };
            let (name, number, start, size) =
                (&profile.name, profile.id, instance.start, profile.memory);
            let _ = writeln!(
                text,
                "|{index:4}  MIG {name:<14} {number:4} {id:8} {start:10}:{size}     |"
            );
        }
        text
    }

    /// `vgpu -s` and `vgpu -c`.
    fn smi_types(&self, pf: PciAddress, creatable: bool, verbose: bool) -> String {
        let mut text = format!("GPU {}\n", bus_id(pf));
        let Some((_, catalogue)) = self.catalogue(&pf.to_string().as_str().into()) else {
            return text;
        };
        for (kind, of) in catalogue.types.iter().enumerate() {
            if creatable && self.room(&catalogue, kind).left == 0 {
                continue;
            }
            if !verbose {
                let _ = writeln!(text, "    {}", of.name);
                continue;
            }
            let number: u32 = of.id.parse().unwrap_or(0);
            field(&mut text, 4, "vGPU Type ID", &format!("0x{number:x}"));
            field(&mut text, 8, "Name", &of.name);
            let profile = of.gi_profile.map_or_else(|| "N/A".to_owned(), |id| id.to_string());
            field(&mut text, 8, "GPU Instance Profile ID", &profile);
            if let Some(most) = of.max {
                field(&mut text, 8, "Max Instances", &most.to_string());
            }
            if let Some(most) = of.per_gi {
                field(&mut text, 8, "Max Instances Per GI", &most.to_string());
            }
            if let Some(most) = of.per_vm {
                field(&mut text, 8, "Max Instances Per VM", &most.to_string());
            }
            field(&mut text, 8, "FB Memory", &format!("{} MiB", of.cost));
            if let Some(ids) = catalogue.grid.get(&of.cost).filter(|_| of.gi_profile.is_none()) {
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                field(&mut text, 8, "Placement Size", &(of.cost / 1024).to_string());
                field(&mut text, 8, "Supported Placement IDs", &ids.join(" "));
            }
        }
        text
    }
}
