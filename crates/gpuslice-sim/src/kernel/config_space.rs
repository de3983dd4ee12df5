//! Config space as the `config` file shows it, as far as somebody looks for it: the header, a PCI Express
//! capability, and in extended space SR-IOV (PCIe base specification 9.3.3) and the Device Serial Number (7.9.3).

use super::Kernel;
use super::function::{Function, Role};

const SIZE: usize = 4096;
const EXPRESS: usize = 0x40;
const SRIOV: usize = 0x100;
const SERIAL: usize = 0x150;

struct Space(Vec<u8>);

impl Space {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }
}

impl Kernel {
    /// What a read of `config` gives.
    pub(crate) fn config_space(&self, function: &Function) -> Vec<u8> {
        let mut space = Space(vec![0; SIZE]);
        let Some(shape) = self.shape(function) else {
            return space.0;
        };
        if self.present.get(function.shape) != Some(&true) {
            return vec![0xff; SIZE];
        }
        let vf = function.is_vf();
        space.put16(0, if vf { 0xffff } else { shape.vendor });
        space.put16(2, if vf { 0xffff } else { shape.device });
        space.put16(6, 0x0010);
        space.put32(8, shape.class << 8 | u32::from(shape.revision));
        space.put16(0x2c, shape.subsystem_vendor);
        space.put16(0x2e, shape.subsystem_device);
        space.put(0x34, &[0x40]);
        space.put(EXPRESS, &[0x10, 0, 2, 0]);
        space.put32(EXPRESS + 4, 1 << 28); // function level reset
        let (sriov, serial) = match (vf, &shape.sriov, &shape.serial) {
            (true, ..) => (None, None),
            (false, sriov, serial) => (sriov.as_ref(), serial.as_ref()),
        };
        let serial = serial.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        // The first extended capability is at 0x100 whatever it is; an empty one has id 0.
        let next = if serial.is_some() { 0x150_u32 << 20 } else { 0 };
        space.put32(SRIOV, next | if sriov.is_some() { 0x1_0010 } else { 0 });
        if let (Some(sriov), Role::Pf { numvfs, .. }) = (sriov, &function.role) {
            space.put16(SRIOV + 0x0c, sriov.total_vfs);
            space.put16(SRIOV + 0x0e, sriov.total_vfs);
            space.put16(SRIOV + 0x10, *numvfs);
            space.put16(SRIOV + 0x14, sriov.offset);
            space.put16(SRIOV + 0x16, sriov.stride);
            space.put16(SRIOV + 0x1a, sriov.vf_device);
        }
        if let Some(serial) = serial {
            space.put32(SERIAL, 0x1_0003);
            space.put(SERIAL + 4, &serial.to_le_bytes());
        }
        space.0
    }
}
