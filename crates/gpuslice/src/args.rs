//! What can be typed. Help, completions and manual pages all come from here.

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use gpuslice_core::domain::MOST_SLICES;
use gpuslice_core::ids::{ClaimName, Parameters, ParentId, ProfileName};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Slices of GPUs for virtual machines.
#[derive(Debug, Parser)]
#[command(
    name = "gpuslice",
    version,
    subcommand_required = true,
    after_help = "\
Examples:
  gpuslice gpus                           what this host has
  gpuslice profiles                       what a VM can ask for
  gpuslice attach win11 nvidia-a40-8q     give the VM win11 a slice
  gpuslice plan && gpuslice apply         make the GPUs as /etc/gpuslice/gpuslice.toml says

Exit codes: 0 done or already so, 1 refused or failed, 2 wrong usage, 3 the daemon does not answer, 4 not permitted.
Environment: GPUSLICE_BUS_ADDRESS and GPUSLICE_SOCKET name another daemon's bus and socket; NO_COLOR turns colours off.
What --json prints of each command: /usr/share/doc/gpuslice/JSON.md"
)]
pub struct Arguments {
    /// Print JSON: a list of rows, one object, or for events one object a line. Orders say `changed`; a failure is
    /// `{\"changed\": ..., \"refusal\": {code, message, causes, hint}}`.
    #[arg(long, global = true, help = "Print JSON; what changes something says `changed`")]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// What was typed. Help is what clap says of it, as is that it makes no sense.
    pub fn typed() -> Result<Self, clap::Error> {
        let mut words = std::env::args_os();
        // The program's own name.
        words.next();
        if let Some(list) = Self::plain_list(words) {
            return Ok(list);
        }
        let arguments = Self::try_parse()?;
        arguments.check()?;
        Ok(arguments)
    }

    /// What clap cannot say of options that may be given as false too.
    fn check(&self) -> Result<(), clap::Error> {
        match &self.command {
            Command::Attach(Attach { pool: Some(true), reserve: Some(true), .. }) => {
                let text =
                    "--pool and --reserve exclude each other: what others may be given is not held";
                Err(Self::command().error(ErrorKind::ArgumentConflict, text))
            }
            _ => Ok(()),
        }
    }

    /// A list as most programs ask for it, by its word alone or with `--json`. It is known without clap, whose tree of all
    /// commands would take a seventh of its time.
    fn plain_list(words: impl Iterator<Item = OsString>) -> Option<Self> {
        let (mut json, mut command) = (false, None);
        for word in words {
            match word.to_str()? {
                "--json" if !json => json = true,
                word if command.is_none() => {
                    command = Some(match word {
                        "status" => Command::Status,
                        "gpus" => Command::Gpus,
                        "profiles" => Command::Profiles { types: false, host: None, config: None },
                        "slices" => Command::Slices,
                        "claims" => Command::Claims,
                        _ => return None,
                    });
                }
                _ => return None,
            }
        }
        Some(Self { json, command: command? })
    }
}

/// A command. Only what is typed of it is built: all of them would be a third of a short question's memory.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Show whether everything is as it should be
    #[command(after_help = "Examples:\n  gpuslice status\n  gpuslice status --json")]
    Status,
    /// List the devices that yield slices
    #[command(after_help = "Examples:\n  gpuslice gpus\n  gpuslice gpus --json")]
    Gpus,
    /// List what a VM can ask for
    #[command(after_help = "\
With --host no daemon and no hardware is asked: what a host would offer that is written down, its GPUs being as --config
says, or each with all the virtual functions it can have.

Examples:
  gpuslice profiles
  gpuslice profiles --types
  gpuslice profiles --host examples/hosts/mi300x-8.toml
  gpuslice profiles --host examples/hosts/mi300x-8.toml --config examples/config/partitions.toml")]
    Profiles {
        /// List the raw mdev types of each device instead
        #[arg(long)]
        types: bool,
        /// A host file instead of this host
        #[arg(long, value_name = "FILE", conflicts_with = "types")]
        host: Option<PathBuf>,
        /// A configuration for it
        #[arg(long, value_name = "FILE", requires = "host")]
        config: Option<PathBuf>,
    },
    /// List the slices that exist
    #[command(after_help = "Examples:\n  gpuslice slices\n  gpuslice slices --json")]
    Slices,
    /// List the claims of VMs and what they are bound to
    #[command(after_help = "Examples:\n  gpuslice claims\n  gpuslice claims --json")]
    Claims,
    /// List who had which slice from when to when, and why it ended
    #[command(after_help = "\
Times are UTC. The daemon keeps it in /var/lib/gpuslice/history-*.jsonl, five files of 2 MiB, the oldest of which goes first;
the journal has the same with fields. Why it ended: stopped, migrated (to another host), start-failed (the VM never
ran), detached, released (by force), vanished (nobody told), started-again, gpu-gone, rebooted (the time is when the
next boot began), mistaken, taken-over, unknown.

Examples:
  gpuslice history
  gpuslice history win11
  gpuslice history 0000:41:00.0 --since 7d
  gpuslice history --since '2026-03-01 18:00' --json
  journalctl GPUSLICE_DOMAIN=win11")]
    History {
        /// A domain by name, id or UUID, a claim, a slice or a GPU (address or serial number)
        what: Option<String>,
        /// Only what lasted until then or longer: a date and time in UTC, or a span like 2h or 7d back from now
        #[arg(long, value_name = "WHEN", value_parser = crate::since::since)]
        since: Option<String>,
    },
    /// Give a VM a slice
    #[command(after_help = "\
Without --live the VM gets it at its next start; with it now, until it stops, and with --live --config both.
Done twice it is done once. A claim that is there is changed by what is given and keeps the rest: its count, fabric, NUMA
wish, parameters, pool and reserve. To take its parameters away, detach it first.

Examples:
  gpuslice attach win11 nvidia-a40-8q
  gpuslice attach win11 nvidia-a40-8q --name cad --reserve
  gpuslice attach win11 nvidia-a40-8q --name cad --reserve=false
  gpuslice attach train amd-mi300x-vf1-spx --count 8 --fabric same
  gpuslice attach win11 nvidia-a40-8q --parameters frame_rate_limiter=0,disable_vnc=1
  gpuslice attach win11 nvidia-a40-8q --live --config
  gpuslice attach 8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11 nvidia-a40-8q --print")]
    Attach(Attach),
    /// Take a slice from a VM
    #[command(after_help = "\
With --live the guest has to let go of the device; while it does not, the VM keeps it and its claim.

Examples:
  gpuslice detach win11             its only claim
  gpuslice detach win11 gpu0
  gpuslice detach win11/gpu0 --live")]
    Detach {
        /// Name, id or UUID; also DOMAIN/NAME as `gpuslice claims` prints
        domain: String,
        /// Name of the claim; needed when the VM has several
        name: Option<ClaimName>,
        /// Change the running VM
        #[arg(long)]
        live: bool,
        /// Change the definition, as the next start takes it (the default)
        #[arg(long)]
        config: bool,
    },
    /// End a claim in the daemon without touching any VM's XML
    #[command(after_help = "\
For claims whose VM is gone or is not libvirt's. A slice that a VM holds is never taken away.

Examples:
  gpuslice release win11/gpu0
  gpuslice release win11 gpu0
  gpuslice release external:ci-7/gpu0 --force")]
    Release {
        /// OWNER/NAME as `gpuslice claims` prints, or the owner alone
        claim: String,
        /// Name of the claim, after an owner alone
        name: Option<ClaimName>,
        /// Forget the claim even if its slice cannot be cleaned now
        #[arg(long)]
        force: bool,
    },
    /// Show each device write `apply` would do, and what stands in the way
    #[command(
        after_help = "What stands in the way is a part of the answer, so the exit code is 0 with it too; apply does nothing then.\n\n\
Examples:\n  gpuslice plan\n  gpuslice plan --json"
    )]
    Plan,
    /// Make the GPUs as the configuration says
    #[command(after_help = "Examples:\n  gpuslice apply\n  gpuslice apply --json")]
    Apply,
    /// Wait for something
    #[command(after_help = "Examples:\n  gpuslice wait --settled --timeout 90")]
    Wait {
        /// Until every GPU is as its layout says, or cannot be
        #[arg(long, required = true)]
        settled: bool,
        /// Seconds to wait at the most; then exit 1 and say what is missing, or 3 where no daemon answers
        #[arg(long, default_value_t = 90, value_name = "S")]
        timeout: u32,
    },
    /// Give a GPU no new VMs
    #[command(after_help = "Examples:\n  gpuslice cordon 0000:41:00.0 --reason 'fan is loud'")]
    Cordon {
        /// Address or name, as `gpuslice gpus` prints
        parent: ParentId,
        /// Why, for others to read
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Give GPUs no new VMs, and wait until those they have are gone
    #[command(after_help = "\
VMs run on until somebody stops them; who has a slice is said. Without --wait that is all; with it the command ends when
the last has left, or with exit code 1 after that time. uncordon ends it.

Examples:
  gpuslice drain 0000:41:00.0 --reason 'new fan'
  gpuslice drain 0000:41:00.0 --wait 30m
  gpuslice drain --all --wait 2h")]
    Drain {
        /// Addresses or names, as `gpuslice gpus` prints
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        parents: Vec<ParentId>,
        /// All GPUs of this host
        #[arg(long)]
        all: bool,
        /// Wait so long at the most: seconds, or 90s, 30m, 2h
        #[arg(long, value_name = "T", value_parser = crate::since::span)]
        wait: Option<Duration>,
        /// Why, for others to read
        #[arg(long, default_value = "drained")]
        reason: String,
    },
    /// Say that a GPU was exchanged for another one
    #[command(after_help = "\
The homes of claims on the old GPU and its cordon move to the new one, virtual function by virtual function; nobody waits
for the old one any more, and what the kernel's log said of it is forgotten. Refused, without changing anything, when
either is in use, or when the new one does not offer what the claims ask for. The new GPU has its layout from the
configuration: where that names the old one by its address or serial number, edit it and apply it first.

Examples:
  gpuslice drain 0000:41:00.0 --wait 2h
  gpuslice replace 0000:41:00.0 0000:81:00.0
  gpuslice uncordon 0000:81:00.0")]
    Replace {
        /// Address of the GPU that was there
        old: ParentId,
        /// Address of the one that is there instead
        new: ParentId,
    },
    /// Let a GPU have new VMs again; also lifts a quarantine
    #[command(after_help = "Examples:\n  gpuslice uncordon 0000:41:00.0")]
    Uncordon {
        /// Address or name, as `gpuslice gpus` prints
        parent: ParentId,
    },
    /// Say what a code means, or why a VM, a slice or a GPU is as it is
    #[command(after_help = "\
A code is what a refusal begins with; without an argument all are listed. Codes need no daemon.

Examples:
  gpuslice explain
  gpuslice explain no-capacity
  gpuslice explain win11
  gpuslice explain win11/gpu0
  gpuslice explain vf:0000:41:00.4
  gpuslice explain 0000:41:00.0 --json")]
    Explain {
        /// A code, a domain, a claim as DOMAIN/NAME, a slice or a GPU, as the lists print them
        what: Option<String>,
    },
    /// Look for what keeps this host or a VM from slices, without the daemon
    #[command(after_help = "\
Each finding has a code (gpuslice explain CODE), what was found, why it matters and how to mend it. Exit code 1 says that
something was found that breaks slices. --fix links the hook, sets its x bit and label, and has libvirt look for it; the
rest is left to a person. What may not be read is named, and not judged.
Environment: GPUSLICE_ROOT names a folder that is looked at instead of /. No program below it is run.

Examples:
  gpuslice doctor
  gpuslice doctor win11
  gpuslice doctor ./win11.xml --json
  gpuslice doctor --fix
  gpuslice doctor win11 --fix")]
    Doctor {
        /// A domain's name, id or UUID, or a file with its XML, instead of the host
        domain: Option<String>,
        /// Mend what is safe to mend on this host, before a VM is looked at
        #[arg(long)]
        fix: bool,
    },
    /// Print what changes, as it happens
    #[command(after_help = "Examples:\n  gpuslice events\n  gpuslice events --json")]
    Events,
    /// Print commands that tell another program of this host's slices
    // Help in place of what is wrong would be no message for a program.
    #[command(
        subcommand,
        arg_required_else_help = false,
        after_help = "Examples:\n  gpuslice export proxmox\n  gpuslice export proxmox --json"
    )]
    Export(Export),
    /// Print the completions of a shell
    #[command(
        after_help = "Examples:\n  gpuslice completions bash > /usr/share/bash-completion/completions/gpuslice"
    )]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, or write all of them into a directory
    #[command(
        after_help = "Examples:\n  gpuslice man | man -l -\n  gpuslice man /usr/share/man/man1"
    )]
    Man {
        /// Where to write gpuslice.1 and a page for each command
        dir: Option<PathBuf>,
    },
}

/// Which program is told.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Export {
    /// Print the commands that make resource mappings of Proxmox VE, one for each profile
    #[command(after_help = "\
Each mapping has every device of this node that can be the profile; Proxmox VE takes the first that is free. Devices of a GPU that
is cordoned or quarantined are left out, and VFs that are held back, which remarks say: after a drain or an uncordon it is to be
run again. A mapping of which nothing would be left stays as it is. What is printed is for a shell, with remarks that say what is
new since the last run: compared with what Proxmox VE has by now, in /etc/pve/mapping/pci.cfg. When all is so already nothing but remarks is printed. Entries of other nodes stay; mappings that
somebody else made are left alone. Nothing is changed before the commands are run.
Environment: GPUSLICE_ROOT names a folder that is looked at instead of /.

Examples:
  gpuslice export proxmox
  gpuslice export proxmox | sh
  gpuslice export proxmox nvidia-a40-8q nvidia-a40-4q
  gpuslice export proxmox --host examples/hosts/sriov-8.toml --node pve1")]
    Proxmox(Proxmox),
}

// clap takes what stands here for what the command above says of itself.
/// Print the commands that make resource mappings of Proxmox VE, one for each profile
#[derive(Debug, Args)]
pub struct Proxmox {
    /// These profiles alone [default: all]
    pub profiles: Vec<ProfileName>,
    /// Name of this node in the cluster [default: the host's name without its domain]
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node: Option<String>,
    /// Compare with this file instead of /etc/pve/mapping/pci.cfg
    #[arg(long, value_name = "FILE")]
    pub mappings: Option<PathBuf>,
    /// A host file instead of this host; compared with nothing unless --mappings is given
    #[arg(long, value_name = "FILE", requires = "node")]
    pub host: Option<PathBuf>,
    /// A configuration for it
    #[arg(long, value_name = "FILE", requires = "host")]
    pub config: Option<PathBuf>,
}

/// As Proxmox VE takes it (pve-common, `pve-node`).
fn node_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let good = !text.is_empty()
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if good { Ok(text.to_owned()) } else { Err("letters, digits and - between them".to_owned()) }
}

/// Give a VM a slice
#[derive(Debug, Args)]
pub struct Attach {
    /// Name, id or UUID of the VM
    pub domain: String,
    /// What to give it; `gpuslice profiles` lists what there is
    pub profile: ProfileName,
    /// Name of the claim [default: the VM's only one for this profile, else gpu0 or the next free]
    #[arg(long)]
    pub name: Option<ClaimName>,
    /// Change the definition, as the next start takes it (the default)
    #[arg(long)]
    pub config: bool,
    /// Change the running VM
    #[arg(long)]
    pub live: bool,
    /// Record the claim and print the XML instead of writing it; needs no libvirt
    #[arg(long, conflicts_with_all = ["config", "live"])]
    pub print: bool,
    /// Let other claims name the same virtual function [default: as the claim has it, else false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub pool: Option<bool>,
    /// Hold the capacity even while the VM is off; not with --pool [default: as the claim has it, else false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub reserve: Option<bool>,
    /// How many slices, all or none [default: as the claim has it, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SLICES)))]
    pub count: Option<u32>,
    /// Whether all slices have to be of one fabric: an XGMI hive, or one GPU where nothing tells of more [default: as the
    /// claim has it, else any]
    #[arg(long)]
    pub fabric: Option<Fabric>,
    /// Slices on the NUMA node that the VM's memory or CPUs are pinned to, or near each other where possible [default: as
    /// the claim has it, else any]
    #[arg(long)]
    pub numa: Option<Numa>,
    /// For the driver of the slices, as the vendor writes them: KEY=VALUE pairs with commas between [default: as the claim
    /// has it, else none]
    #[arg(long, value_name = "LIST")]
    pub parameters: Option<Parameters>,
}

/// Whether slices have to be linked, as domain XML says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fabric {
    /// They all are
    Same,
    /// They need not
    Any,
}

/// Whether slices are to be near each other, as domain XML says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Numa {
    /// Near each other where possible
    Prefer,
    /// On the VM's own node, or none
    Require,
    /// They need not
    Any,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent_and_every_command_shows_examples() {
        let command = Arguments::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let help = sub.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            let example = format!("  gpuslice {}", sub.get_name());
            assert!(help.contains("Examples:\n") && help.contains(&example), "{help}");
        }
    }

    #[test]
    fn a_plain_list_is_what_clap_says() {
        let mut seen = 0;
        let command = Arguments::command();
        let words: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        let more = ["--json", "--types", "--help", "-h", "--", "", "frobnicate"];
        let words: Vec<&str> = words.into_iter().chain(more).collect();
        for first in &words {
            for second in &words {
                for line in [&[*first][..], &[first, second], &[first, second, "--json"]] {
                    let typed = line.iter().map(OsString::from);
                    let Some(plain) = Arguments::plain_list(typed) else { continue };
                    let told = Arguments::try_parse_from(["gpuslice"].iter().chain(line)).unwrap();
                    assert_eq!(format!("{plain:?}"), format!("{told:?}"), "{line:?}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 5 * 4, "{seen}");
    }

    #[test]
    fn examples_can_be_typed() {
        let command = Arguments::command();
        let examples =
            command.get_subcommands().filter_map(|sub| sub.get_after_help()).flat_map(|help| {
                let help = help.to_string();
                help.lines().map(str::to_owned).collect::<Vec<_>>()
            });
        let mut seen = 0;
        for line in examples.filter(|line| line.starts_with("  gpuslice ")) {
            let line = line
                .replace("'fan is loud'", "loud")
                .replace("'new fan'", "fan")
                .replace("'2026-03-01 18:00'", "2026-03-01");
            let words = line.split_whitespace();
            let words = words.take_while(|word| !["|", ">", "its"].contains(word));
            Arguments::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_code_2() {
        for line in [
            "gpuslice",
            "gpuslice frobnicate",
            "gpuslice attach win11",
            "gpuslice attach win11 a--b",
            "gpuslice attach win11 p --name a/b",
            "gpuslice attach win11 p --print --live",
            "gpuslice attach win11 p --count 0",
            "gpuslice attach win11 p --count 65",
            "gpuslice attach win11 p --pool=maybe",
            "gpuslice attach win11 p --pool --reserve",
            "gpuslice attach win11 p --fabric all",
            "gpuslice attach win11 p --numa always",
            "gpuslice attach win11 p --parameters a",
            "gpuslice wait",
            "gpuslice wait --settled --timeout -1",
            "gpuslice cordon ../x",
            "gpuslice history --since yesterday",
            "gpuslice drain",
            "gpuslice drain mtty --all",
            "gpuslice drain --all --wait soon",
            "gpuslice completions ksh",
            "gpuslice export",
            "gpuslice export proxmox --node pve.example",
            "gpuslice export proxmox --host examples/hosts/mdev.toml",
        ] {
            let typed = Arguments::try_parse_from(line.split(' '));
            let error = typed.and_then(|typed| typed.check()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        let one = "gpuslice attach win11 p --pool=false --reserve".split(' ');
        Arguments::try_parse_from(one).and_then(|typed| typed.check()).unwrap();
    }
}
