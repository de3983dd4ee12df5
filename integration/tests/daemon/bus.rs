//! A message bus that nothing of the machine is on, which may come late, go, and come back.

use crate::host::until;
use gpuslice_integration::root;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct Bus {
    socket: PathBuf,
    config: PathBuf,
    child: Option<Child>,
}

impl Bus {
    /// One that is not running yet.
    pub fn at(dir: &Path) -> Self {
        let (socket, config) = (dir.join("bus"), dir.join("bus.conf"));
        let text = format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow user=\"*\"/><allow send_destination=\"*\"/>\
             <allow receive_sender=\"*\"/><allow own=\"*\"/></policy>\
             <include>{}</include></busconfig>",
            socket.display(),
            root()
                .join("crates/gpusliced/dist/usr/share/dbus-1/system.d/org.gpuslice1.conf")
                .display()
        );
        std::fs::write(&config, text).unwrap();
        Self { socket, config, child: None }
    }

    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket.display())
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none());
        let child = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--nosyslog"])
            .arg(format!("--config-file={}", self.config.display()))
            // It complains there about limits it may not raise.
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("dbus-daemon: {e}; integration/packages installs it"));
        self.child = Some(child);
        until("the bus", || std::os::unix::net::UnixStream::connect(&self.socket).is_ok());
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
            // The next one wants to listen there.
            drop(std::fs::remove_file(&self.socket));
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop();
    }
}
