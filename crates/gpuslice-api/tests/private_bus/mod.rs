//! A message bus that nothing of the machine is on: dbus-daemon under a configuration of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use zbus::{Connection, connection};

const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:dir=DIR</listen>
  <servicedir>DIR</servicedir>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

pub struct PrivateBus {
    daemon: Child,
    address: String,
    _dir: TempDir,
}

impl PrivateBus {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// One that can start programs: the command for each of their names, or the unit that systemd is asked for.
    pub fn with(services: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, command) in services {
            let file = dir.path().join(format!("{name}.service"));
            let mut text = format!("[D-BUS Service]\nName={name}\nExec={command}\n");
            if command.ends_with(".service") {
                text += &format!("SystemdService={command}\n");
            }
            std::fs::write(file, text).unwrap();
        }
        let config = dir.path().join("bus.conf");
        std::fs::write(&config, CONFIG.replace("DIR", dir.path().to_str().unwrap())).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .args([
                "--nofork",
                "--nopidfile",
                "--nosyslog",
                "--print-address",
                "--systemd-activation",
            ])
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::piped())
            // It complains there about limits it may not raise.
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("dbus-daemon: {e}; integration/packages installs it"));
        // It prints the address once it listens.
        let mut address = String::new();
        let stdout = daemon.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut address).unwrap();
        Self { daemon, address: address.trim().to_owned(), _dir: dir }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub async fn connect(&self) -> Connection {
        let builder = connection::Builder::address(self.address()).unwrap();
        builder.build().await.unwrap()
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}
