//! Which GPU it is, as the driver's `nv_procfs_read_gpu_info` writes it (open-gpu-kernel-modules, nv-procfs.c): a line
//! `GPU UUID:`, which is left out or has question marks while the driver has not set the GPU up. To look wakes the GPU.

use super::DRIVER;
use gpuslice_core::ids::{PciAddress, Serial};
use gpuslice_core::mechanism::{SerialFile, ShownSerial};

pub(super) fn file(function: PciAddress, driver: &str) -> Option<SerialFile> {
    let path = format!("/proc/driver/nvidia/gpus/{function}/information");
    (driver == DRIVER).then_some(SerialFile { path, read })
}

fn read(text: &str) -> Option<ShownSerial> {
    let Some(uuid) = text.lines().find_map(|line| line.strip_prefix("GPU UUID:")) else {
        return text.starts_with("Model:").then_some(ShownSerial::NotYet);
    };
    let uuid = uuid.trim();
    if uuid.contains('?') {
        return Some(ShownSerial::NotYet);
    }
    let serial = uuid.parse().ok().filter(|serial| matches!(serial, Serial::Uuid(_)));
    serial.map(ShownSerial::Is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_is_found_among_what_else_is_told() {
        let uuid = "GPU-1b724e78-eef5-4163-d43c-e4da15d41176";
        let said = |line: &str| {
            read(&format!("Model: \t\t NVIDIA A40\nIRQ:   \t\t 166\n{line}Bus Type: \t PCIe\n"))
        };
        let line = format!("GPU UUID: \t {uuid}\n");
        assert_eq!(said(&line), Some(ShownSerial::Is(uuid.parse().unwrap())));
        let unknown = "GPU UUID: \t GPU-????????-????-????-????-????????????\n";
        for line in [unknown, ""] {
            assert_eq!(said(line), Some(ShownSerial::NotYet), "{line}");
        }
        for line in ["GPU UUID: \t GPU-1b\n", "GPU UUID: \t 692b1f0c3a5d0100\n", "GPU UUID:\n"] {
            assert_eq!(said(line), None, "{line}");
        }
        assert_eq!(read("garbage"), None);
    }
}
