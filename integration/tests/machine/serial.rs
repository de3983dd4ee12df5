//! Which GPU it is, where only its driver tells that.

use crate::driver::Driver;
use gpuslice_core::errno::Errno;
use gpuslice_core::observation::{Observation, ProblemKind};
use gpuslice_core::observe::Observer;
use gpuslice_core::port::{HostRead, HostWrite, LogLine};
use gpuslice_sim::{HostFile, Kernel};
use std::cell::RefCell;
use std::collections::BTreeMap;

const NVIDIA: &str = "/proc/driver/nvidia/gpus/0000:01:00.0/information";
const AMDGPU: &str = "/sys/bus/pci/devices/0000:06:00.0/unique_id";

/// A kernel with files that only these drivers have, which the simulated ones lack.
struct Shown<'a> {
    kernel: &'a Kernel,
    files: BTreeMap<&'static str, Result<&'static str, Errno>>,
    asked: RefCell<Vec<String>>,
}

impl HostRead for Shown<'_> {
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
        self.kernel.list(dir)
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        if let Some(shown) = self.files.get(file) {
            self.asked.borrow_mut().push(file.to_owned());
            return shown.map(|text| text.as_bytes().to_vec());
        }
        self.kernel.read(file)
    }

    fn link(&self, path: &str) -> Result<String, Errno> {
        self.kernel.link(path)
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        self.kernel.kernel_log()
    }
}

/// One reading: what it saw, and which of the files it asked for.
fn look(
    observer: &mut Observer,
    kernel: &Kernel,
    nvidia: Result<&'static str, Errno>,
    amdgpu: Result<&'static str, Errno>,
) -> (Observation, Vec<String>) {
    let files = [(NVIDIA, nvidia), (AMDGPU, amdgpu)].into();
    let host = Shown { kernel, files, asked: RefCell::default() };
    let seen = observer.observe(&host);
    (seen, host.asked.into_inner())
}

fn serials(seen: &Observation) -> [String; 2] {
    ["0000:01:00.0", "0000:06:00.0"].map(|address| {
        let address = address.parse().unwrap();
        let function = seen.functions.get(&address).or_else(|| seen.whole.get(&address)).unwrap();
        function.serial.map(|serial| serial.to_string()).unwrap_or_default()
    })
}

#[test]
fn a_gpu_without_a_number_has_the_one_that_its_driver_shows() {
    let host = include_str!("../../../examples/hosts/consumer.toml");
    let mut driver = Driver::new(&HostFile::parse(host).unwrap(), "").unwrap();
    let mut observer = Observer::new(gpuslice_vendors::all());
    let kernel = &mut driver.kernel;
    let none = [String::new(), String::new()];

    // Not yet: it is asked again. A GPU that is being reset says so.
    let waiting = "Model: \t\t NVIDIA\nGPU UUID: \t GPU-????????-????-????-????-????????????\n";
    let (seen, asked) = look(&mut observer, kernel, Ok(waiting), Err(Errno::EPERM));
    assert_eq!((serials(&seen), asked.len()), (none.clone(), 2));
    let problems: Vec<_> = seen.problems.iter().map(|p| (p.path.as_str(), &p.why)).collect();
    assert_eq!(problems, [(AMDGPU, &ProblemKind::Errno(Errno::EPERM))]);
    let (seen, asked) = look(&mut observer, kernel, Ok("?"), Ok("\n"));
    assert_eq!((serials(&seen), asked.len()), (none.clone(), 2));
    assert_eq!(seen.problems.len(), 1, "{:?}", seen.problems);

    let told = "Model: \t\t NVIDIA\nGPU UUID: \t GPU-1b724e78-eef5-4163-d43c-e4da15d41176\n";
    let id = Ok("0a1b2c3d4e5f6071\n");
    let known = ["GPU-1b724e78-eef5-4163-d43c-e4da15d41176", "0a1b2c3d4e5f6071"];
    let (seen, asked) = look(&mut observer, kernel, Ok(told), id);
    assert_eq!((serials(&seen), asked.len()), (known.map(str::to_owned), 2));

    // It is not asked again, and stays without the driver.
    for bound in [true, false] {
        if !bound {
            kernel.write("/sys/bus/pci/drivers/nvidia/unbind", b"0000:01:00.0").unwrap();
        }
        let (seen, asked) = look(&mut observer, kernel, Err(Errno::EIO), Err(Errno::EIO));
        assert_eq!((serials(&seen), asked.len()), (known.map(str::to_owned), 0));
        assert_eq!(seen.problems, []);
    }

    // One that has no such file is asked once.
    let mut observer = Observer::new(gpuslice_vendors::all());
    for times in [1, 0] {
        let (seen, asked) = look(&mut observer, kernel, Err(Errno::ENOENT), Err(Errno::ENOENT));
        assert_eq!((serials(&seen), asked), (none.clone(), vec![AMDGPU.to_owned(); times]));
    }
}
