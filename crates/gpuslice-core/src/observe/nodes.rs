//! NUMA nodes (drivers/base/node.c). They are read until that succeeded once: which there are does not change while the
//! kernel runs, but for memory that is plugged in. Of its CPUs a node lists those that are online, so whoever misses one has
//! them read anew.

use super::{Observer, attribute, note};
use crate::errno::Errno;
use crate::numa::{Nodes, Numbers};
use crate::observation::Observation;
use crate::port::HostRead;
use std::sync::Arc;

/// Where the kernel tells of them.
pub const NODES: &str = "/sys/devices/system/node";

pub(super) fn read(host: &dyn HostRead, observer: &mut Observer, seen: &mut Observation) {
    let anew = std::mem::take(&mut observer.nodes_anew);
    if anew || observer.nodes.is_none() {
        let read = all(host, seen).map(Arc::new);
        observer.nodes = read.or_else(|| observer.nodes.take());
    }
    seen.nodes.clone_from(&observer.nodes);
}

fn all(host: &dyn HostRead, seen: &mut Observation) -> Option<Nodes> {
    let names = match host.list(NODES) {
        Ok(names) => names,
        // A kernel without NUMA.
        Err(Errno::ENOENT) => return Some(Nodes::new()),
        Err(errno) => {
            note(seen, NODES, errno);
            return None;
        }
    };
    let number = |name: &str| name.strip_prefix("node")?.parse::<u32>().ok();
    let numbers = names.iter().filter_map(|name| number(name));
    let cpus = |seen: &mut Observation, node: u32| {
        attribute(host, seen, &format!("{NODES}/node{node}/cpulist"), |t| t.parse::<Numbers>().ok())
    };
    numbers.map(|node| Some((node, cpus(seen, node)?))).collect()
}
