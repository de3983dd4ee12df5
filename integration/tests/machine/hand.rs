//! The daemon's hand on the kernel: it can die between any two writes of a step.

use gpuslice_core::errno::Errno;
use gpuslice_core::port::{HostRead, HostWrite, LogLine, Ran, Written};
use gpuslice_sim::Kernel;

pub struct Hand<'a> {
    pub kernel: &'a mut Kernel,
    /// Writes left to live.
    pub left: Option<u32>,
    pub died: bool,
}

impl Hand<'_> {
    fn alive(&mut self) -> Result<(), Errno> {
        match &mut self.left {
            Some(0) => {
                self.died = true;
                Err(Errno::EINTR)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl HostRead for Hand<'_> {
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
        self.kernel.list(dir)
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        self.kernel.read(file)
    }

    fn link(&self, path: &str) -> Result<String, Errno> {
        self.kernel.link(path)
    }

    fn ask(&self, command: &[String]) -> Result<Ran, Errno> {
        self.kernel.ask(command)
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        self.kernel.kernel_log()
    }
}

impl HostWrite for Hand<'_> {
    fn write(&mut self, file: &str, data: &[u8]) -> Result<Written, Errno> {
        self.alive()?;
        self.kernel.write(file, data)
    }

    fn run(&mut self, command: &[String]) -> Result<Ran, Errno> {
        self.alive()?;
        self.kernel.run(command)
    }

    fn load_module(&mut self, name: &str) -> Result<(), Errno> {
        self.alive()?;
        self.kernel.load_module(name)
    }

    fn unload_module(&mut self, name: &str) -> Result<Written, Errno> {
        self.alive()?;
        self.kernel.unload_module(name)
    }

    fn replace(&mut self, file: &str, content: &[u8]) -> Result<(), Errno> {
        self.alive()?;
        self.kernel.replace(file, content)
    }
}
