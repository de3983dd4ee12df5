//! A host as a run has it: the simulator's file, and what people ask of it, write about it and do to it.

use crate::hosts::{Drawn, Gpu, Host, Kind};
use gpuslice_core::ids::{MdevTypeId, ParentId, PciAddress};
use gpuslice_sim::{Grouping, HostFile};
use std::fmt::Write;

/// Whose mediated devices somebody else may make.
#[derive(Debug, Clone)]
pub enum Maker {
    Itself(ParentId),
    VfsOf(PciAddress),
}

/// What somebody else does to a GPU.
#[derive(Debug, Clone)]
pub enum Hand {
    Writes { file: String, words: Vec<String> },
    Runs { command: Vec<String> },
}

#[derive(Debug)]
pub struct Place {
    pub file: HostFile,
    /// What VMs ask for, and one thing that nobody has.
    pub profiles: Vec<String>,
    /// All functions that are no VFs.
    pub functions: Vec<PciAddress>,
    pub parents: Vec<ParentId>,
    /// What gets its layout by a load of its driver, which only a person orders while it is loaded.
    pub by_load: Vec<PciAddress>,
    /// Modules that are unloaded and loaded.
    pub drivers: Vec<String>,
    /// Configurations people write, good and bad.
    configs: Vec<String>,
    /// Those that ask for what the host cannot be, or for nothing at all.
    bad: Vec<usize>,
    pub makers: Vec<(Maker, MdevTypeId)>,
    pub hands: Vec<Hand>,
}

impl Place {
    pub fn of(host: &Host) -> Self {
        match host {
            Host::Each => each(),
            Host::Drawn(drawn) => drawn_place(drawn),
        }
    }

    pub fn config(&self, index: u8) -> &str {
        &self.configs[usize::from(index) % self.configs.len()]
    }

    /// Whether nothing can be made of it, whatever is mended.
    pub fn cannot_be(&self, config: &str) -> bool {
        self.bad.iter().any(|at| self.configs[*at] == config)
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn numvfs(pf: PciAddress) -> Hand {
    let file = format!("/sys/bus/pci/devices/{pf}/sriov_numvfs");
    Hand::Writes { file, words: (0..5).map(|count| count.to_string()).collect() }
}

fn each() -> Place {
    let file = HostFile::parse(include_str!("host.toml")).unwrap();
    let functions: Vec<PciAddress> = [
        "0000:0c:00.0",
        "0000:9f:00.0",
        "0000:41:00.0",
        "0000:81:00.0",
        "0000:c1:00.0",
        "0000:01:00.0",
    ]
    .map(|address| address.parse().unwrap())
    .to_vec();
    let maker = |of: Maker, id: &str| (of, id.parse().unwrap());
    let itself = |name: &str| Maker::Itself(name.parse().unwrap());
    Place {
        profiles: owned(&[
            "amd-74a1-vf8",
            "amd-74a1-vf4",
            "nvidia-a40-4q",
            "nvidia-a40-8q",
            "mtty-1",
            "mtty-2",
            "amd-74a1-vf8",
            "amd-74a1-vf4",
            "amd-74a1-vf2",
            "nvidia-a40-4q",
            "intel-10c9-vf3",
            "nvidia-l40s-4q",
            "nvidia-l40s-4q",
            "nvidia-l40s-8q",
            "no-such",
        ]),
        parents: functions
            .iter()
            .map(|pf| ParentId::Pci(*pf))
            .chain(["mtty".parse().unwrap()])
            .collect(),
        by_load: Vec::new(),
        drivers: owned(&["gpusim", "nvidia", "mtty"]),
        configs: owned(&[
            "[[gpu]]\nmatch = { vendor-device = \"1002:74a1\" }\nlayout = { vfs = \"all\" }\n\
             [[gpu]]\nmatch = { vendor-device = \"10de:26b9\" }\nlayout = { vfs = \"all\" }\n",
            "[[gpu]]\nmatch = { vendor-device = \"1002:74a1\" }\nlayout = { vfs = 4, wipe = \"required\" }\n\
             [[gpu]]\nmatch = { vendor-device = \"10de:26b9\" }\nlayout = { vfs = \"all\" }\n",
            "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 2, bind = \"vfio-pci\" }\n\
             [[gpu]]\nmatch = { driver = \"igb\" }\nlayout = { vfs = 3 }\n",
            "",
            "placement = \"spread\"\n[[gpu]]\nmatch = { address = \"0000:81:00.0\" }\nlayout = { vfs = 3 }\n\
             [[gpu]]\nmatch = { address = \"0000:9f:00.0\" }\nlayout = { vfs = 4 }\n",
            "[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vfs = 6, wipe = \"required\" }\n",
            "[[gpu]\nmatch = 7\n",
            "[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vfs = \"all\" }\n\
             [[gpu]]\nmatch = { address = \"0000:41:00.0\" }\nlayout = { park = { nvidia-a40-4q = 1 } }\n\
             [[gpu]]\nmatch = { address = \"0000:81:00.0\" }\n\
             layout = { vfs = 3, park = { nvidia-a40-4q = 2, nvidia-a40-8q = 1 } }\n",
        ]),
        bad: vec![5, 6],
        makers: vec![
            maker(itself("mtty"), "mtty-1"),
            maker(itself("0000:41:00.0"), "nvidia-558"),
            maker(itself("0000:41:00.0"), "nvidia-558"),
            maker(Maker::VfsOf(functions[3]), "nvidia-558"),
        ],
        hands: functions.iter().map(|pf| numvfs(*pf)).collect(),
        functions,
        file,
    }
}

/// Drivers of a drawn host, whether there is a GPU for them or not.
const DRIVERS: &str = r#"
[[driver]]
name = "gpusim"

[[driver]]
name = "igb"

[[driver]]
name = "igbvf"

[[driver]]
name = "amdgpu"
sriov_configure = false

[[driver]]
name = "nvidia"
sriov_configure = false
vf_tool = "/usr/lib/nvidia/sriov-manage"
smi_tool = "/usr/bin/nvidia-smi"
"#;

/// How an A100 can be divided.
const MIG: &str = r#"{ compute = 7, memory = 8, profiles = [
  { id = 9, name = "3g.40gb", compute = 3, memory = 4, memory_mib = 40960 },
  { id = 14, name = "2g.20gb", compute = 2, memory = 2, memory_mib = 20480 },
  { id = 19, name = "1g.10gb", compute = 1, memory = 1, memory_mib = 10240 },
] }"#;

/// VFs of an A100 here; it has 16.
const A100_VFS: u16 = 4;

/// How many VFs GIM makes of an MI300X at most.
const HIVE_VFS: u16 = 8;

impl Gpu {
    fn driver(&self) -> &'static str {
        match self.kind {
            Kind::Plain => "gpusim",
            Kind::Network => "igb",
            Kind::Hive | Kind::Radeon => "gim",
            Kind::Partitions => "amdgpu",
            _ => "nvidia",
        }
    }

    fn most_vfs(&self) -> u16 {
        match self.kind {
            Kind::Hive | Kind::Partitions => HIVE_VFS,
            Kind::Instances => A100_VFS,
            _ => self.vfs,
        }
    }

    fn ids(&self) -> (u16, u16) {
        match self.kind {
            Kind::Plain => (0x1002, 0x7400),
            Kind::Network => (0x8086, 0x10c9),
            Kind::Hive => (0x1002, 0x74a1),
            Kind::Radeon => (0x1002, 0x7ff0),
            Kind::Partitions => (0x1002, 0x74a2),
            Kind::Mdev => (0x10de, 0x1eb8),
            Kind::MdevOfVfs => (0x10de, 0x2235),
            Kind::Types => (0x10de, 0x26b9),
            Kind::Sizes => (0x10de, 0x2236),
            Kind::Instances => (0x10de, 0x20b5),
        }
    }

    /// No id of a PF, or its driver would take it for one; but NVIDIA's are told apart.
    fn vf_device(&self) -> u16 {
        match self.kind {
            Kind::Hive => 0x74b5,
            Kind::Partitions => 0x74b6,
            _ if self.driver() == "nvidia" => self.ids().1,
            _ => self.ids().1 + 1,
        }
    }

    /// Product, number of its first type, where the types are and what may be side by side.
    fn model(&self) -> Option<(&'static str, u32, &'static str, &'static str)> {
        Some(match self.kind {
            Kind::Mdev => ("T4", 230, "pf", "same-type"),
            Kind::MdevOfVfs => ("A40", 558, "vf", "same-size"),
            Kind::Types => ("L40S", 1150, "vf-type", "same-size"),
            Kind::Sizes => ("A10", 590, "vf-type", "same-size"),
            Kind::Instances => ("A100D", 692, "vf-type", "same-size"),
            _ => return None,
        })
    }

    /// Gigabytes of each type.
    fn sizes(types: u8) -> Vec<u64> {
        (0..types).map(|at| 4 << at).collect()
    }

    fn mdev(&self, number: u8) -> String {
        let Some((model, first, on, rule)) = self.model() else { return String::new() };
        let mut types = String::new();
        let mut kind = |id: u32, size: &str, memory: u64, more: &str| {
            let _ = writeln!(
                types,
                "  {{ id = \"{id}\", name = \"NVIDIA {model}-{size}\", memory_mib = {memory}{more} }},"
            );
        };
        for (at, size) in (first..).zip(Self::sizes(number)) {
            let series = if self.kind == Kind::Instances { "C" } else { "Q" };
            // Some drivers start only so many for one VM.
            let per_vm = match self.kind {
                Kind::Types | Kind::Mdev => ", per_vm = 1",
                Kind::Sizes => ", per_vm = 2",
                _ => "",
            };
            kind(at, &format!("{size}{series}"), size << 10, per_vm);
        }
        if self.kind == Kind::Instances {
            kind(699, "1-10C", 10 << 10, ", gi_profile = 19");
            kind(700, "2-20C", 20 << 10, ", gi_profile = 14");
            kind(701, "3-40C", 40 << 10, ", gi_profile = 9");
        }
        let more = match self.kind {
            Kind::Instances => format!("memory_mib = 81920\nmig = {MIG}"),
            Kind::Sizes => {
                "memory_mib = 16384\nsizes = [\n  { memory_mib = 4096, ids = [0, 4, 8, 12] },\n  \
                 { memory_mib = 8192, ids = [0, 8] },\n  { memory_mib = 16384, ids = [0] },\n]"
                    .to_owned()
            }
            _ => "memory_mib = 16384".to_owned(),
        };
        format!(
            "[function.mdev]\non = \"{on}\"\ndriver = \"nvidia-vgpu-vfio\"\nrule = \"{rule}\"\n{more}\n\
             type = [\n{types}]\n"
        )
    }

    fn function(&self, address: PciAddress, types: u8) -> String {
        let (vendor, device) = self.ids();
        let group = match self.group {
            Grouping::Function => "function",
            Grouping::Pf => "pf",
            Grouping::Card => "card",
            Grouping::None => "none",
        };
        let (driver, most) = (self.driver(), self.most_vfs());
        let vf_driver = match self.kind {
            Kind::Network => ", vf_driver = \"igbvf\"",
            _ if driver == "nvidia" => ", vf_driver = \"nvidia\"",
            _ => "",
        };
        let late = if self.late { 40_000 } else { 0 };
        format!(
            "[[function]]\naddress = \"{address}\"\nvendor = {vendor}\ndevice = {device}\n\
             driver = \"{driver}\"\nnuma_node = {}\niommu_group = \"{group}\"\n\
             appears_after_ms = {late}\nserial = \"692b1f0c3a5d{:04x}\"\n\
             sriov = {{ total_vfs = {most}, offset = 4, vf_device = {}, configure_ms = {}{vf_driver} }}\n{}",
            self.node,
            address.routing_id(),
            self.vf_device(),
            self.slow_ms,
            self.mdev(types),
        )
    }

    /// What people wish of it: as a whole, less or otherwise, a third way, and with something parked.
    fn layouts(&self) -> [Option<String>; 4] {
        let layout = |text: &str| Some(text.to_owned());
        // Nothing binds what is in no group.
        let bind = if self.group == Grouping::None { "" } else { ", bind = \"vfio-pci\"" };
        let half = self.vfs.div_ceil(2);
        match self.kind {
            Kind::Plain | Kind::Network => [
                layout("vfs = \"all\""),
                Some(format!("vfs = {half}, wipe = \"required\"")),
                Some(format!("vfs = 1{bind}")),
                Some(format!("vfs = {half}")),
            ],
            Kind::Radeon => [
                layout("vfs = \"all\""),
                Some(format!("vfs = {half}, wipe = \"required\"")),
                layout("vfs = 1"),
                None,
            ],
            Kind::Hive => [
                layout("vfs = 8"),
                layout("vfs = 4, compute = \"QPX\", memory = \"NPS4\", wipe = \"required\""),
                layout("vfs = 2, compute = \"CPX\""),
                layout("vfs = 8, compute = \"CPX\", memory = \"NPS4\""),
            ],
            Kind::Partitions => [
                layout("vfs = 0, compute = \"QPX\""),
                layout("vfs = 0, compute = \"SPX\""),
                layout("vfs = 0"),
                layout("vfs = 0, compute = \"CPX\""),
            ],
            Kind::Mdev => [None, None, None, layout("park = { nvidia-t4-4q = 2 }")],
            Kind::MdevOfVfs => [
                layout("vfs = \"all\""),
                layout("vfs = 0"),
                None,
                layout("vfs = \"all\", park = { nvidia-a40-4q = 1 }"),
            ],
            Kind::Types => {
                [layout("vfs = \"all\""), None, layout("vfs = 0"), layout("vfs = \"all\"")]
            }
            Kind::Sizes => [
                layout("vfs = \"all\", sizes = \"mixed\""),
                layout("vfs = \"all\", sizes = \"equal\""),
                layout("vfs = 0"),
                layout("vfs = \"all\""),
            ],
            Kind::Instances => [
                layout("vfs = \"all\", instances = [\"3g.40gb\", \"2g.20gb\", \"1g.10gb\"]"),
                layout("vfs = \"all\", instances = [\"1g.10gb\", \"2g.20gb\"]"),
                layout("vfs = \"all\", instances = \"off\""),
                layout("vfs = \"all\""),
            ],
        }
    }

    /// Often what its first layout has.
    fn profiles(&self, types: u8) -> Vec<String> {
        let counts = |name: &str| {
            let counts = [self.vfs, self.vfs, self.vfs.div_ceil(2), 1];
            counts.iter().map(|count| format!("{name}-vf{count}")).collect()
        };
        match self.kind {
            Kind::Plain => counts("amd-7400"),
            Kind::Network => counts("intel-10c9"),
            Kind::Radeon => counts("amd-7ff0"),
            Kind::Hive => owned(&[
                "amd-mi300x-vf8-cpx",
                "amd-mi300x-vf8-cpx",
                "amd-mi300x-vf4-qpx-nps4",
                "amd-mi300x-vf2-cpx",
                "amd-mi300x-vf8-cpx-nps4",
            ]),
            Kind::Partitions => Vec::new(),
            Kind::Instances => owned(&[
                "nvidia-a100d-3-40c",
                "nvidia-a100d-2-20c",
                "nvidia-a100d-1-10c",
                "nvidia-a100d-4c",
            ]),
            _ => {
                let model = self.model().unwrap().0.to_ascii_lowercase();
                Self::sizes(types).iter().map(|size| format!("nvidia-{model}-{size}q")).collect()
            }
        }
    }

    fn hands(&self, address: PciAddress) -> Vec<Hand> {
        let writes = |file: &str, words: &[&str]| Hand::Writes {
            file: format!("/sys/bus/pci/devices/{address}/{file}"),
            words: owned(words),
        };
        let runs = |words: &[&str]| {
            let named = words.iter().map(|word| word.replace("GPU", &address.to_string()));
            Hand::Runs { command: named.collect() }
        };
        let manage = |option| runs(&["/usr/lib/nvidia/sriov-manage", option, "GPU"]);
        match self.kind {
            Kind::Plain | Kind::Network => vec![numvfs(address)],
            Kind::Radeon => Vec::new(),
            Kind::Hive => vec![
                writes("memory_partition_mode", &["NPS1", "NPS4"]),
                writes("accelerator_partition_profile", &["SPX", "DPX", "QPX", "CPX"]),
            ],
            Kind::Partitions => {
                vec![writes("current_compute_partition", &["SPX", "DPX", "QPX", "CPX"])]
            }
            Kind::Mdev => Vec::new(),
            Kind::MdevOfVfs | Kind::Types => vec![manage("-e"), manage("-d")],
            Kind::Sizes => vec![
                manage("-e"),
                manage("-d"),
                runs(&["/usr/bin/nvidia-smi", "vgpu", "-i", "GPU", "-shm", "0"]),
            ],
            Kind::Instances => vec![
                manage("-e"),
                manage("-d"),
                runs(&["/usr/bin/nvidia-smi", "mig", "-i", "GPU", "-dgi"]),
                runs(&["/usr/bin/nvidia-smi", "mig", "-i", "GPU", "-cgi", "1g.10gb"]),
            ],
        }
    }

    fn makers(&self, address: PciAddress) -> Vec<(Maker, MdevTypeId)> {
        let Some((_, first, on, _)) = self.model() else { return Vec::new() };
        let of = match on {
            "pf" => Maker::Itself(ParentId::Pci(address)),
            "vf" => Maker::VfsOf(address),
            _ => return Vec::new(),
        };
        vec![(of, format!("nvidia-{first}").parse().unwrap())]
    }
}

fn drawn_place(drawn: &Drawn) -> Place {
    let address = |at: usize| format!("0000:{:02x}:00.0", 0x21 + 0x10 * at).parse().unwrap();
    let gpus: Vec<(PciAddress, &Gpu)> =
        drawn.gpus.iter().enumerate().map(|(at, gpu)| (address(at), gpu)).collect();
    let config = |head: &str, which: &dyn Fn(usize, &Gpu) -> Option<String>| {
        let rules = gpus.iter().enumerate().filter_map(|(at, (address, gpu))| {
            let layout = which(at, gpu)?;
            Some(format!(
                "[[gpu]]\nmatch = {{ address = \"{address}\" }}\nlayout = {{ {layout} }}\n"
            ))
        });
        head.to_owned() + &rules.collect::<String>()
    };
    // GPUs of one hive have one mode.
    let hive = gpus.iter().position(|(_, gpu)| gpu.kind == Kind::Hive);
    let turn = |at: usize, gpu: &Gpu| hive.filter(|_| gpu.kind == Kind::Hive).unwrap_or(at);
    let configs = vec![
        config("", &|_, gpu| gpu.layouts()[0].clone()),
        config("", &|_, gpu| gpu.layouts()[1].clone()),
        config("", &|at, gpu| gpu.layouts()[2].clone().filter(|_| turn(at, gpu) == 0)),
        String::new(),
        config("placement = \"spread\"\n", &|at, gpu| gpu.layouts()[turn(at, gpu) % 4].clone()),
        config("", &|_, _| Some("vfs = 200".to_owned())),
        "[[gpu]\nmatch = 7\n".to_owned(),
        config("", &|_, gpu| gpu.layouts()[3].clone()),
    ];
    // A GPU of no name is taken for one of GIM's once it is loaded.
    let gim = gpus.iter().any(|(_, gpu)| gpu.kind == Kind::Radeon);
    let mtty =
        drawn.mtty.map(|budget| format!("[[virtual]]\nkind = \"mtty\"\nbudget = {budget}\n"));
    let modules = if drawn.vfio { "modules = [\"vfio-pci\"]\n" } else { "" };
    let functions = gpus.iter().map(|(address, gpu)| gpu.function(*address, drawn.types));
    let text = format!(
        "name = \"drawn\"\n[kernel]\nvfio_cdev = {}\nrescan_lock = {}\n{modules}{DRIVERS}\n\
         [[driver]]\nname = \"gim\"\nloaded = {gim}\nsriov_configure = false\nbind_files = false\n\
         gim = {{ init_ms = 200, reset_ms = 2000 }}\n{}{}",
        drawn.cdev,
        drawn.rescan_lock,
        functions.collect::<String>(),
        mtty.as_deref().unwrap_or_default(),
    );
    let file = HostFile::parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    let sample = drawn.mtty.is_some();
    let mut profiles: Vec<String> =
        gpus.iter().flat_map(|(_, gpu)| gpu.profiles(drawn.types)).collect();
    let mut parents: Vec<ParentId> = gpus.iter().map(|(pf, _)| ParentId::Pci(*pf)).collect();
    let mut drivers: Vec<String> = gpus.iter().map(|(_, gpu)| gpu.driver().to_owned()).collect();
    let mut makers: Vec<_> = gpus.iter().flat_map(|(pf, gpu)| gpu.makers(*pf)).collect();
    if sample {
        profiles.extend(owned(&["mtty-1", "mtty-2"]));
        parents.push("mtty".parse().unwrap());
        drivers.push("mtty".to_owned());
        makers.push((Maker::Itself("mtty".parse().unwrap()), "mtty-1".parse().unwrap()));
    }
    profiles.push("no-such".to_owned());
    Place {
        file,
        profiles,
        functions: gpus.iter().map(|(pf, _)| *pf).collect(),
        by_load: gpus.iter().filter(|(_, gpu)| gpu.driver() == "gim").map(|(pf, _)| *pf).collect(),
        parents,
        drivers,
        configs,
        bad: vec![5, 6],
        makers,
        hands: gpus.iter().flat_map(|(pf, gpu)| gpu.hands(*pf)).collect(),
    }
}
