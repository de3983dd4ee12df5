//! The two documents on disk. What is there and cannot be used makes the store refuse writes: a daemon that does
//! not know what it promised must not promise more.

use crate::args::Args;
use crate::history;
use anyhow::Context;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::BootId;
use gpuslice_core::shell::quoted;
use gpuslice_core::state::{self, Durable, Runtime};
use gpuslice_host::state::{Loaded, StateDir, StateError};
use serde::Serialize;
use serde::de::DeserializeOwned;

const DURABLE: &str = "claims.json";
const RUNTIME: &str = "assignments.json";
const HISTORY: &str = "history";

/// Where records go.
pub enum Store {
    /// Directories.
    Disk {
        /// Outlives the boot.
        durable: Place,
        /// Does not.
        runtime: Place,
    },
    /// A simulated host without directories keeps them in memory, as text.
    Memory {
        /// Last record.
        durable: Option<String>,
        /// Last record.
        runtime: Option<String>,
    },
}

/// A directory, and whether it may be written.
pub struct Place {
    dir: StateDir,
    document: &'static str,
    /// What its document holds nothing else tells, so one that was corrupt is missed until a person has put it right.
    missed: bool,
    refuses: Option<String>,
}

/// What was found.
pub struct Found {
    /// Claims and applied rules.
    pub durable: Durable,
    /// Assignments, if any were recorded.
    pub runtime: Option<Runtime>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// What mends it where a directory cannot be used.
fn way_out(error: &StateError) -> String {
    let path = |path: &std::path::Path| quoted(&path.to_string_lossy());
    match error {
        StateError::InUse { .. } => {
            "systemctl status gpusliced, and end the other one first".to_owned()
        }
        StateError::NotOurs { path: of, .. } => format!("chown root: {}", path(of)),
        StateError::Kernel { errno: Errno::ENOSPC, path: of, .. } => {
            format!("make room (df {})", path(of))
        }
        StateError::Kernel { path: of, .. } => {
            format!("mend what is said of it (namei -lm {})", path(of))
        }
        StateError::Name { .. } => "journalctl -u gpusliced".to_owned(),
    }
}

impl Store {
    /// Opens and locks the directories.
    pub fn open(args: &Args) -> anyhow::Result<Self> {
        let defaults = args.state.as_os_str() == "/var/lib/gpuslice";
        if args.sim.is_some() && defaults {
            return Ok(Self::Memory { durable: None, runtime: None });
        }
        let open = |dir: &std::path::Path, document, missed| -> anyhow::Result<Place> {
            if let Some(parent) = dir.parent() {
                std::fs::create_dir_all(parent)
                    .with_context(|| format!("make {}", parent.display()))?;
            }
            let dir = StateDir::open(dir)
                .map_err(|error| anyhow::anyhow!("cannot {error}; hint: {}", way_out(&error)))?;
            Ok(Place { dir, document, missed, refuses: None })
        };
        let (durable, runtime) =
            (open(&args.state, DURABLE, true)?, open(&args.run, RUNTIME, false)?);
        Ok(Self::Disk { durable, runtime })
    }

    /// Where the history is to be.
    pub fn history(&self) -> anyhow::Result<history::Place> {
        match self {
            Self::Disk { durable, .. } => Ok(history::Place::Disk(durable.dir.log(HISTORY)?)),
            Self::Memory { .. } => Ok(history::Place::Memory(Vec::new())),
        }
    }

    /// Reads what a former daemon left.
    pub fn load(&mut self) -> Found {
        let mut warnings = Vec::new();
        let (durable, runtime) = match self {
            Self::Disk { durable, runtime } => {
                (durable.load(&mut warnings), runtime.load(&mut warnings))
            }
            Self::Memory { durable, runtime } => (
                durable.as_deref().and_then(|text| state::parse(text).ok()),
                runtime.as_deref().and_then(|text| state::parse(text).ok()),
            ),
        };
        Found { durable: durable.unwrap_or_default(), runtime, warnings }
    }

    /// Records claims and rules.
    pub fn save_durable(&mut self, document: &Durable) -> Result<(), String> {
        match self {
            Self::Disk { durable, .. } => durable.save(document),
            Self::Memory { durable, .. } => {
                *durable = Some(print(document)?);
                Ok(())
            }
        }
    }

    /// Records assignments.
    pub fn save_runtime(&mut self, document: &Runtime) -> Result<(), String> {
        match self {
            Self::Disk { runtime, .. } => runtime.save(document),
            Self::Memory { runtime, .. } => {
                *runtime = Some(print(document)?);
                Ok(())
            }
        }
    }

    /// What a reboot does to a file system in memory.
    pub fn forget_runtime(&mut self, boot: BootId) {
        let empty = Runtime::new(boot);
        if let Err(error) = self.save_runtime(&empty) {
            tracing::warn!("cannot empty the record of assignments: {error}");
        }
    }
}

impl Place {
    fn load<T: DeserializeOwned>(&mut self, warnings: &mut Vec<String>) -> Option<T> {
        let path = self.dir.path().join(self.document).display().to_string();
        let why = match self.dir.load(self.document) {
            Loaded::Absent => {
                self.refuses = self.lost(&path);
                warnings.extend(self.refuses.clone());
                return None;
            }
            Loaded::Present(text) => match state::parse(&text) {
                Ok(document) => return Some(document),
                Err(state::StateError::Newer { found }) => {
                    self.refuses = Some(format!(
                        "{path} has schema {found} of a later version, which must not be overwritten"
                    ));
                    warnings.extend(self.refuses.clone());
                    return None;
                }
                Err(error) => format!("{path}: {error}"),
            },
            Loaded::Empty => format!("{path} is empty"),
            Loaded::NotText => format!("{path} is not text"),
            Loaded::Unreadable(errno) => {
                self.refuses = Some(format!("{path} cannot be read: {errno}"));
                warnings.extend(self.refuses.clone());
                return None;
            }
        };
        let kept = match self.dir.set_aside(self.document) {
            Ok(kept) => format!("it is kept as {}", kept.display()),
            Err(error) => format!("it could not be put aside: {error}"),
        };
        self.refuses = Some(format!("{why}; {kept}; {}", self.mend(&path)));
        warnings.extend(self.refuses.clone());
        None
    }

    /// Why an absent document is none of a first start: a former daemon found it corrupt, and nobody has looked since.
    fn lost(&self, path: &str) -> Option<String> {
        if !self.missed {
            return None;
        }
        match self.dir.last_aside(self.document) {
            Ok(None) => None,
            Ok(Some(kept)) => {
                let kept = kept.display();
                Some(format!("{path} was corrupt and is kept as {kept}; {}", self.mend(path)))
            }
            Err(error) => Some(format!("whether {path} was corrupt is not known: {error}")),
        }
    }

    fn mend(&self, path: &str) -> String {
        match self.missed {
            true => format!(
                "put back a good one, or remove {path}.corrupt-* where all in it may be forgotten, \
                 then restart gpusliced"
            ),
            false => "look at it, then restart gpusliced".to_owned(),
        }
    }

    fn save<T: Serialize>(&self, document: &T) -> Result<(), String> {
        if let Some(why) = &self.refuses {
            return Err(why.clone());
        }
        let text = print(document)?;
        self.dir.save(self.document, &text).map_err(|error| error.to_string())
    }
}

fn print<T: Serialize>(document: &T) -> Result<String, String> {
    state::print(document).map_err(|error| error.to_string())
}
