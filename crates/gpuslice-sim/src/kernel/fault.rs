//! Things that go wrong on demand. Faults are armed ahead, strike at a counted occasion and stay until
//! [`super::Kernel::clear_faults`]; a read can strike one too, hence the atomic counts.

use super::Kernel;
use super::chance::Chance;
use super::command::Command;
use super::job::{Lock, Task};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering};

/// What an attribute reads instead of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// Nothing.
    Empty,
    /// Its content after a byte that no UTF-8 begins with.
    NotUtf8,
    /// Its content followed by blanks.
    TrailingBlanks,
    /// More than a page.
    TooLong,
    /// Text of no meaning.
    Garbage,
    /// Its content with other digits.
    OtherDigits,
    /// The same at every second read.
    Changing,
}

/// Something that will go wrong. Paths are as the caller writes them; `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The `nth` (from 1) and the following `times - 1` writes to the path fail and do nothing. A run of a tool is one to
    /// its command line, a load of a module one to `modprobe NAME`, and an unload one to `modprobe -r NAME`.
    Write {
        /// Which.
        path: String,
        /// First that fails.
        nth: u32,
        /// How many fail.
        times: u32,
        /// With what.
        errno: Errno,
    },
    /// Likewise for reads.
    Read {
        /// Which.
        path: String,
        /// First that fails.
        nth: u32,
        /// How many fail.
        times: u32,
        /// With what.
        errno: Errno,
    },
    /// The `nth` write to the path does nothing, and comes back with `EIO` when faults are cleared.
    Sleeps {
        /// Which.
        path: String,
        /// First that sleeps, and the only one.
        nth: u32,
    },
    /// Something else happens to the machine before the `nth` thing from now that a daemon does to it.
    Before {
        /// Which, from 1.
        nth: u32,
        /// What.
        does: Box<Command>,
    },
    /// From the `nth` read or listing on, everything at and below the path is gone, although its directory was
    /// listed with it.
    Vanish {
        /// Which.
        path: String,
        /// First that finds nothing.
        nth: u32,
    },
    /// The attribute reads strangely.
    Reads {
        /// Which.
        path: String,
        /// How.
        as_: Content,
    },
    /// The driver of a PF refuses to enable VFs.
    Enable {
        /// The PF.
        pf: PciAddress,
        /// First enable that fails.
        nth: u32,
        /// How many fail.
        times: u32,
        /// With what.
        errno: Errno,
    },
    /// The driver makes at most so many VFs and reports success.
    Fewer {
        /// The PF.
        pf: PciAddress,
        /// At most.
        vfs: u16,
    },
    /// The driver takes this long, in each direction.
    Delay {
        /// The PF.
        pf: PciAddress,
        /// Virtual time.
        ms: u64,
    },
    /// The probe of a function takes its driver this long.
    Probes {
        /// The function.
        function: PciAddress,
        /// Virtual time.
        ms: u64,
    },
    /// The driver makes no vGPU, on a VF or as a mediated device, and says that the GPU is not initialised yet.
    NotReady {
        /// The PF.
        pf: PciAddress,
        /// First that is refused.
        nth: u32,
        /// How many.
        times: u32,
    },
    /// The tool that makes VFs fails, as it does while anybody looks at the device.
    Tool {
        /// The PF.
        pf: PciAddress,
        /// First run that fails.
        nth: u32,
        /// How many fail.
        times: u32,
        /// It leaves the PF without its driver.
        unbinds: bool,
    },
    /// The tool is ended when it has made the VFs: neither the PF nor a VF has its driver.
    ToolEnds {
        /// The PF.
        pf: PciAddress,
        /// First run that is ended.
        nth: u32,
        /// How many are.
        times: u32,
        /// Or it is so while it has the PF under the kernel's stub.
        under_stub: bool,
    },
    /// The tool runs for another GPU of the same model too, which takes the stub's id from this one: the tool makes and takes
    /// no VFs, says nothing of it, and leaves them without their driver, the first to the stub.
    ToolBeside {
        /// The PF.
        pf: PciAddress,
        /// First run that fails so.
        nth: u32,
        /// How many do.
        times: u32,
    },
    /// A command line does nothing and ends so.
    Exits {
        /// Which: its path and arguments, with a blank between two.
        command: String,
        /// First run that fails.
        nth: u32,
        /// How many fail.
        times: u32,
        /// Exit status.
        code: i32,
    },
    /// The driver takes a change of a mode, refuses it, and says so in the kernel's log alone.
    Refuses {
        /// The PF.
        pf: PciAddress,
        /// First that is refused.
        nth: u32,
        /// How many.
        times: u32,
    },
    /// A process of the host computes on the GPU, or a monitor has it open.
    Computes {
        /// The PF.
        pf: PciAddress,
    },
    /// The GPU is being reset as a whole: its driver cannot read what it is set to.
    Resets {
        /// The PF.
        pf: PciAddress,
    },
    /// The GPU cannot be reset, though nobody has it open: a change of MIG waits for its next driver.
    NotReset {
        /// The PF.
        pf: PciAddress,
        /// What `nvidia-smi` says of it.
        says: String,
    },
    /// `nvidia-smi mig -cgi` is refused when it has made so many instances of its list, since somebody looks at the GPU.
    HalfMade {
        /// The PF.
        pf: PciAddress,
        /// Made before.
        after: usize,
    },
    /// `nvidia-smi` says this of each mode of the GPU: it is lost, or being reset.
    Untold {
        /// The PF.
        pf: PciAddress,
        /// The value.
        says: String,
    },
    /// `nvidia-smi` cannot reach the GPU: it leaves it out, and ends in failure when it has been through the others.
    Lost {
        /// The PF.
        pf: PciAddress,
    },
    /// `nvidia-smi -q` ends in failure in the midst of what it tells of the GPU, and tells of none behind it.
    BreaksOff {
        /// The PF.
        pf: PciAddress,
    },
    /// The PF falls off the bus when so many VFs of an enable are made.
    FallsOff {
        /// The PF.
        pf: PciAddress,
        /// VFs made before.
        after: u16,
    },
}

/// A fault and how often its occasion came.
#[derive(Debug)]
pub(crate) struct Armed {
    pub(crate) fault: Fault,
    seen: AtomicU32,
}

impl Clone for Armed {
    fn clone(&self) -> Self {
        let seen = AtomicU32::new(self.seen.load(Ordering::Relaxed));
        Self { fault: self.fault.clone(), seen }
    }
}

impl Armed {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { fault, seen: AtomicU32::new(0) }
    }

    /// Counts an occasion; true when it is within the range that fails.
    fn strikes(&self, nth: u32, times: u32) -> bool {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        seen >= nth && seen - nth < times
    }
}

impl Kernel {
    pub(crate) fn write_fault(&self, file: &str) -> Option<Errno> {
        self.faults.iter().find_map(|armed| match &armed.fault {
            Fault::Write { path, nth, times, errno } if matches(path, file) => {
                armed.strikes(*nth, *times).then_some(*errno)
            }
            _ => None,
        })
    }

    /// What is to happen before the next write, tool or module.
    pub(crate) fn meanwhile(&self) -> Option<Command> {
        self.faults.iter().find_map(|armed| match &armed.fault {
            Fault::Before { nth, does } if armed.strikes(*nth, 1) => Some(Command::clone(does)),
            _ => None,
        })
    }

    pub(crate) fn sleep_fault(&self, file: &str) -> bool {
        self.faults.iter().any(|armed| match &armed.fault {
            Fault::Sleeps { path, nth } if matches(path, file) => armed.strikes(*nth, 1),
            _ => false,
        })
    }

    /// Whether a write to the file that began to sleep goes on doing so.
    pub(crate) fn still_sleeps(&self, file: &str) -> bool {
        let of = |armed: &Armed| matches!(&armed.fault, Fault::Sleeps { path, .. } if matches(path, file));
        self.faults.iter().any(of)
    }

    pub(crate) fn read_fault(&self, file: &str) -> Option<Errno> {
        self.faults.iter().find_map(|armed| match &armed.fault {
            Fault::Read { path, nth, times, errno } if matches(path, file) => {
                armed.strikes(*nth, *times).then_some(*errno)
            }
            Fault::Vanish { path, nth } if within(path, file) => {
                armed.strikes(*nth, u32::MAX).then_some(Errno::ENOENT)
            }
            _ => None,
        })
    }

    /// Whether a tool fails on a PF now, and what it leaves behind.
    pub(crate) fn tool_fault(&mut self, of: PciAddress) -> bool {
        let found = self.faults.iter().find_map(|armed| match &armed.fault {
            Fault::Tool { pf, nth, times, unbinds } if *pf == of => {
                armed.strikes(*nth, *times).then_some(*unbinds)
            }
            _ => None,
        });
        if found == Some(true) {
            self.start(None, vec![Task::Lock(Lock::Device(of)), Task::Release(of)]);
            self.run();
        }
        found.is_some()
    }

    /// Whether a tool is ended now on a PF whose VFs it has made.
    pub(crate) fn tool_ends(&self, of: PciAddress, at_stub: bool) -> bool {
        self.faults.iter().any(|armed| match &armed.fault {
            Fault::ToolEnds { pf, nth, times, under_stub } if *under_stub == at_stub => {
                *pf == of && armed.strikes(*nth, *times)
            }
            _ => false,
        })
    }

    pub(crate) fn tool_beside(&self, of: PciAddress) -> bool {
        self.faults.iter().any(|armed| match armed.fault {
            Fault::ToolBeside { pf, nth, times } => pf == of && armed.strikes(nth, times),
            _ => false,
        })
    }

    /// How a tool ends that fails before it did anything.
    pub(crate) fn exit_fault(&self, line: &str) -> Option<i32> {
        self.faults.iter().find_map(|armed| match &armed.fault {
            Fault::Exits { command, nth, times, code } if matches(command, line) => {
                armed.strikes(*nth, *times).then_some(*code)
            }
            _ => None,
        })
    }

    /// What a read of `file` gives instead of `content`.
    pub(crate) fn strange(&self, file: &str, content: Vec<u8>) -> Vec<u8> {
        let found = self.faults.iter().find_map(|armed| match &armed.fault {
            Fault::Reads { path, as_: Content::Changing } if matches(path, file) => {
                // The first is as it was.
                let other = armed.seen.fetch_add(1, Ordering::Relaxed) % 2 == 1;
                other.then_some(Content::OtherDigits)
            }
            Fault::Reads { path, as_ } if matches(path, file) => Some(*as_),
            _ => None,
        });
        match found {
            None => content,
            Some(Content::Empty) => Vec::new(),
            Some(Content::NotUtf8) => [b"\xff".as_slice(), &content].concat(),
            Some(Content::TrailingBlanks) => [content.as_slice(), b" \t \n"].concat(),
            Some(Content::TooLong) => content.iter().copied().cycle().take(5000).collect(),
            Some(Content::Garbage) => {
                b"?0x, -1 :=|\x07\t~ [N/A]\n\n99999999999999999999\n".to_vec()
            }
            Some(Content::OtherDigits | Content::Changing) => content
                .iter()
                .map(|byte| if byte.is_ascii_digit() { other_digit(*byte) } else { *byte })
                .collect(),
        }
    }

    pub(crate) fn enable_fault(&self, address: PciAddress) -> Option<Errno> {
        self.faults.iter().find_map(|armed| match &armed.fault {
            Fault::Enable { pf, nth, times, errno } if *pf == address => {
                armed.strikes(*nth, *times).then_some(*errno)
            }
            _ => None,
        })
    }

    pub(crate) fn fewer_fault(&self, address: PciAddress) -> Option<u16> {
        self.faults.iter().find_map(|armed| match armed.fault {
            Fault::Fewer { pf, vfs } if pf == address => Some(vfs),
            _ => None,
        })
    }

    pub(crate) fn delay_fault(&self, address: PciAddress) -> Option<u64> {
        self.faults.iter().find_map(|armed| match armed.fault {
            Fault::Delay { pf, ms } if pf == address => Some(ms),
            _ => None,
        })
    }

    pub(crate) fn probe_fault(&self, address: PciAddress) -> Option<u64> {
        self.faults.iter().find_map(|armed| match armed.fault {
            Fault::Probes { function, ms } if function == address => Some(ms),
            _ => None,
        })
    }

    pub(crate) fn not_ready(&self, address: PciAddress) -> bool {
        self.faults.iter().any(|armed| match armed.fault {
            Fault::NotReady { pf, nth, times } => pf == address && armed.strikes(nth, times),
            _ => false,
        })
    }

    pub(crate) fn refuses(&self, address: PciAddress) -> bool {
        self.faults.iter().any(|armed| match armed.fault {
            Fault::Refuses { pf, nth, times } => pf == address && armed.strikes(nth, times),
            _ => false,
        })
    }

    pub(crate) fn computes(&self, address: PciAddress) -> bool {
        let on = |fault: &Fault| matches!(fault, Fault::Computes { pf } if *pf == address);
        self.faults.iter().any(|armed| on(&armed.fault))
    }

    pub(crate) fn not_reset(&self, address: PciAddress) -> Option<String> {
        self.faults.iter().find_map(|armed| match &armed.fault {
            Fault::NotReset { pf, says } if *pf == address => Some(says.clone()),
            _ => None,
        })
    }

    pub(crate) fn half_made(&self, address: PciAddress, made: usize) -> bool {
        self.faults.iter().any(|armed| match armed.fault {
            Fault::HalfMade { pf, after } => pf == address && after == made && armed.strikes(1, 1),
            _ => false,
        })
    }

    pub(crate) fn untold(&self, address: PciAddress) -> Option<&str> {
        self.faults.iter().find_map(|armed| match &armed.fault {
            Fault::Untold { pf, says } if *pf == address => Some(says.as_str()),
            _ => None,
        })
    }

    pub(crate) fn lost(&self, address: PciAddress) -> bool {
        let on = |fault: &Fault| matches!(fault, Fault::Lost { pf } if *pf == address);
        self.faults.iter().any(|armed| on(&armed.fault))
    }

    pub(crate) fn breaks_off(&self, address: PciAddress) -> bool {
        let on = |fault: &Fault| matches!(fault, Fault::BreaksOff { pf } if *pf == address);
        self.faults.iter().any(|armed| on(&armed.fault))
    }

    pub(crate) fn resets(&self, address: PciAddress) -> bool {
        let on = |fault: &Fault| matches!(fault, Fault::Resets { pf } if *pf == address);
        self.faults.iter().any(|armed| on(&armed.fault))
    }

    pub(crate) fn falls_off(&self, address: PciAddress, made: u16) -> bool {
        self.faults.iter().any(|armed| match armed.fault {
            Fault::FallsOff { pf, after } => pf == address && after == made && armed.strikes(1, 1),
            _ => false,
        })
    }
}

fn other_digit(digit: u8) -> u8 {
    if digit == b'9' { b'0' } else { digit.saturating_add(1) }
}

fn within(pattern: &str, path: &str) -> bool {
    matches(pattern, path)
        || path.match_indices('/').any(|(at, _)| {
            let above = path.get(..at).unwrap_or_default();
            !above.is_empty() && matches(pattern, above)
        })
}

/// Whether a text matches a pattern in which `*` stands for any characters.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// `count` faults of any kind for a machine with these PFs, chosen by seed.
pub fn random_faults(seed: u64, pfs: &[PciAddress], count: usize) -> Vec<Fault> {
    let mut chance = Chance::new(seed);
    let errnos = [Errno::EIO, Errno::ENOMEM, Errno::EBUSY, Errno::EINVAL, Errno::ENODEV];
    let contents = [Content::Empty, Content::NotUtf8, Content::TrailingBlanks, Content::TooLong];
    let files = [
        "*/sriov_numvfs",
        "*/driver_override",
        "*/drivers_probe",
        "*/create",
        "*/remove",
        "*/reset",
    ];
    let attributes = ["*/sriov_totalvfs", "*/available_instances", "*/device", "*/numa_node"];
    let mut faults = Vec::new();
    while faults.len() < count {
        let pf = pfs.get(chance.below(pfs.len())).copied();
        let errno = errnos.get(chance.below(errnos.len())).copied().unwrap_or(Errno::EIO);
        let nth = u32::try_from(chance.below(4) + 1).unwrap_or(1);
        let few = u16::try_from(chance.below(4)).unwrap_or(0);
        let file = files.get(chance.below(files.len())).copied().unwrap_or_default();
        let attribute = attributes.get(chance.below(attributes.len())).copied().unwrap_or_default();
        let as_ = contents.get(chance.below(contents.len())).copied().unwrap_or(Content::Empty);
        faults.push(match (chance.below(7), pf) {
            (0, Some(pf)) => Fault::Enable { pf, nth, times: 1, errno },
            (1, Some(pf)) => Fault::Fewer { pf, vfs: few },
            (2, Some(pf)) => Fault::Delay { pf, ms: u64::from(few) * 700 },
            (3, Some(pf)) => Fault::FallsOff { pf, after: few },
            (4, _) => Fault::Reads { path: attribute.to_owned(), as_ },
            (5, _) => Fault::Read { path: attribute.to_owned(), nth, times: 1, errno },
            _ => Fault::Write { path: file.to_owned(), nth, times: 1, errno },
        });
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, want) in [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/bc", false),
            ("*/b", "/a/b", true),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/b/d", false),
            ("/a*", "/a", true),
            ("a*bc*c", "abcc", true),
            ("a*bc*c", "abc", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
        assert!(within("/sys/x", "/sys/x/y/z"));
        assert!(!within("/sys/x", "/sys/xy/z"));
    }

    #[test]
    fn a_seed_decides_the_faults() {
        let pfs = ["0000:01:00.0".parse().unwrap()];
        assert_eq!(random_faults(7, &pfs, 20), random_faults(7, &pfs, 20));
        assert_ne!(random_faults(7, &pfs, 20), random_faults(8, &pfs, 20));
    }
}
