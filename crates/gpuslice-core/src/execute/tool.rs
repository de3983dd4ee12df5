//! Vendor tools that are the one supported way to make VFs.

use super::{Performed, StepError, binding, failed, require_unheld, sriov, write};
use crate::ids::PciAddress;
use crate::port::HostWrite;

pub(super) fn run(
    host: &mut dyn HostWrite,
    pf: PciAddress,
    wanted: u16,
    command: &[String],
) -> Result<Performed, StepError> {
    let links = sriov::links(host, pf)?;
    if sriov::count(&links) == wanted {
        return Ok(Performed::Already);
    }
    require_unheld(host, &format!("a VF of {pf}"), sriov::nodes_of_vfs(host, pf, &links))?;
    let driver = binding::driver(host, pf)?;
    let said = command.join(" ");
    let ran = host.run(command).map_err(failed(format!("run {said}")))?;
    // A tool that takes the driver off the PF can fail before it gives it back.
    if driver.is_some() && binding::driver(host, pf)?.is_none() {
        write(host, "/sys/bus/pci/drivers_probe", &pf.to_string())?;
    }
    match sriov::check_count(host, pf, wanted) {
        Err(StepError::Fewer { .. }) if ran.code != 0 => {
            let last = ran.said.lines().rev().find(|line| !line.trim().is_empty());
            let last = last.unwrap_or_default().trim().chars().take(200).collect();
            Err(StepError::Tool { command: said, code: ran.code, said: last })
        }
        other => other,
    }
}
