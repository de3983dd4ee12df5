//! Where a node of Proxmox VE keeps what is read here. `GPUSLICE_PVE_ROOT` puts another folder before all of it, for
//! trying the hook by hand and in tests.

use gpuslice_core::guest::mapping::{self, Mapping, full_address};
use gpuslice_core::hint;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::refusal::{Code, Refusal};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The files of a node.
pub struct Files {
    root: PathBuf,
    /// The node that a guest comes from by live migration: its configuration is there until it has arrived.
    from: Option<String>,
}

impl Files {
    /// Of the node this runs on.
    pub fn of_this_node() -> Self {
        let root = std::env::var_os("GPUSLICE_PVE_ROOT").map_or_else(|| "/".into(), PathBuf::from);
        Self { root, from: std::env::var("PVE_MIGRATED_FROM").ok().filter(|node| !node.is_empty()) }
    }

    fn read(&self, path: &str) -> Result<Option<String>, Refusal> {
        match std::fs::read_to_string(self.root.join(path)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Refusal::new(Code::BadRequest, format!("cannot read /{path}"))
                .because(format!("read /{path}: {error}"))
                // Its process serves /etc/pve.
                .hint(if path.starts_with("etc/pve") {
                    hint!("systemctl restart pve-cluster, then start it again")
                } else {
                    hint!("fix permissions of /{}, then start it again", path)
                })),
        }
    }

    /// A guest's configuration; `None` where it has none, as a container.
    pub fn guest(&self, vmid: u32) -> Result<Option<String>, Refusal> {
        match &self.from {
            Some(node) if !is_node_name(node) => {
                let message = format!("PVE_MIGRATED_FROM is {node:?}, which is no node's name");
                let hint = hint!("unset PVE_MIGRATED_FROM, then start it again");
                Err(Refusal::new(Code::BadRequest, message).hint(hint))
            }
            Some(node) => self.read(&format!("etc/pve/nodes/{node}/qemu-server/{vmid}.conf")),
            None => self.read(&format!("etc/pve/qemu-server/{vmid}.conf")),
        }
    }

    /// A mapping; empty where the cluster has none of the name.
    pub fn mapping(&self, id: &str) -> Result<Mapping, Refusal> {
        let text = self.read("etc/pve/mapping/pci.cfg")?.unwrap_or_default();
        let named = mapping::read(&text).into_iter().find(|mapping| mapping.id == id);
        Ok(named.unwrap_or_default())
    }

    /// The functions of a device that is named without one.
    pub fn functions(&self, address: &str) -> Vec<String> {
        if address.contains('.') {
            return vec![address.to_owned()];
        }
        (0..8)
            .map(|function| format!("{address}.{function}"))
            .filter(|name| self.root.join("sys/bus/pci/devices").join(name).exists())
            .collect()
    }

    /// Whether a function takes its type from the vendor's driver rather than becoming an mdev's parent.
    pub fn is_vendor_vfio(&self, address: PciAddress) -> bool {
        self.root.join(format!("sys/bus/pci/devices/{address}/nvidia")).exists()
    }

    /// Which guest has each function: of its QEMU that is there, or for a time that is not over. Before the first start
    /// since the boot there is no file.
    pub fn reservations(&self) -> Result<BTreeMap<PciAddress, u32>, Refusal> {
        let text = self.read("run/qemu-server/pci-id-reservations")?.unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let each = text.lines().filter_map(reservation);
        let holding = each.map(|(address, vmid, until)| {
            Ok(self.holds(vmid, until, now)?.then_some((address, vmid)))
        });
        holding.filter_map(Result::transpose).collect()
    }

    fn holds(&self, vmid: u32, until: Until<'_>, now: u64) -> Result<bool, Refusal> {
        match until {
            Until::Time(time) => Ok(time > now),
            // The number of a QEMU that was killed may be another process's by now, which the file of its guest is not.
            Until::Pid(pid) if self.root.join("proc").join(pid).exists() => {
                let running = self.read(&format!("run/qemu-server/{vmid}.pid"))?;
                Ok(running.is_some_and(|running| running.trim() == pid))
            }
            Until::Pid(_) => Ok(false),
        }
    }
}

/// How long a reservation holds.
#[derive(Clone, Copy)]
enum Until<'l> {
    /// Seconds since 1970.
    Time(u64),
    /// As long as the guest's QEMU is this process.
    Pid(&'l str),
}

fn reservation(line: &str) -> Option<(PciAddress, u32, Until<'_>)> {
    let mut words = line.split_ascii_whitespace();
    let (address, vmid, until) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let until = match until.split_once(':')? {
        ("time", time) => Until::Time(time.parse().ok()?),
        ("pid", pid) => Until::Pid(pid),
        _ => return None,
    };
    Some((full_address(address).parse().ok()?, vmid, until))
}

/// What this node is called: by its host name without the domain.
pub fn node() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// It becomes a part of a path (pve-common, `pve-node`).
fn is_node_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
