//! An object for each parent and each claim, below [`HOST_PATH`] and its object manager: for programs that follow
//! properties rather than lists. Slices and profiles have none, since thousands of objects are megabytes.

use super::{Caller, Handler};
use crate::callers::{Gate, Gated};
use crate::names::HOST_PATH;
use crate::refused::Refused;
use crate::wire::{self, Dict};
use gpuslice_core::request::{Answer, ClaimRow, Command, ParentRow};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use zbus::message::Header;
use zbus::names::InterfaceName;
use zbus::object_server::{Interface, SignalEmitter};
use zbus::zvariant::{OwnedValue, Value};
use zbus::{Connection, fdo, interface};

/// What an object shows now. zbus holds an object's own lock until its method is answered, for as long as a person
/// takes to type a password, so a row is exchanged without it: nobody else has to wait for that.
#[derive(Debug)]
struct Row<R>(Arc<RwLock<R>>);

impl<R> Row<R> {
    fn of(row: R) -> Self {
        Self(Arc::new(RwLock::new(row)))
    }

    fn now(&self) -> RwLockReadGuard<'_, R> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows another one from now on.
    fn exchange(&self, row: R) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = row;
    }

    fn shared(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// `org.gpuslice1.Parent`.
#[derive(Debug)]
struct ParentObject<H> {
    handler: H,
    row: Row<ParentRow>,
}

/// `org.gpuslice1.Claim`.
#[derive(Debug)]
struct ClaimObject<H> {
    handler: H,
    row: Row<ClaimRow>,
}

impl<H: Handler> Gated for ParentObject<H> {
    type Handler = H;
    type Interface = Self;

    fn handler(&self) -> &H {
        &self.handler
    }

    fn interface(&self) -> &Self {
        self
    }
}

impl<H: Handler> Gated for ClaimObject<H> {
    type Handler = H;
    type Interface = Self;

    fn handler(&self) -> &H {
        &self.handler
    }

    fn interface(&self) -> &Self {
        self
    }
}

/// zbus' own object manager: what it answers is all that there is.
#[derive(Debug)]
struct Manager<H>(H);

impl<H: Handler> Gated for Manager<H> {
    type Handler = H;
    type Interface = fdo::ObjectManager;

    fn handler(&self) -> &H {
        &self.0
    }

    fn interface(&self) -> &fdo::ObjectManager {
        &fdo::ObjectManager
    }
}

async fn order<H: Handler>(
    handler: &H,
    header: &Header<'_>,
    connection: &Connection,
    command: Command,
) -> Result<Dict, Refused> {
    let answer = handler.call(Caller::of(header, connection), command).await?;
    Ok(wire::to_dict(&answer)?)
}

/// D-Bus has no absent value: a text that is not there is empty.
fn text(value: Option<&String>) -> String {
    value.cloned().unwrap_or_default()
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

#[interface(name = "org.gpuslice1.Parent")]
impl<H: Handler> ParentObject<H> {
    /// Gives it no new VMs.
    #[zbus(out_args("answer"))]
    async fn cordon(
        &self,
        reason: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let (parent, reason) = (self.row.now().parent.clone(), reason.to_owned());
        order(&self.handler, &header, connection, Command::Cordon { parent, reason }).await
    }

    /// Lifts a cordon or a quarantine.
    #[zbus(out_args("answer"))]
    async fn uncordon(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let parent = self.row.now().parent.clone();
        order(&self.handler, &header, connection, Command::Uncordon { parent }).await
    }

    /// PCI address or name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn parent(&self) -> String {
        self.row.now().parent.to_string()
    }

    /// `vendor:device`.
    #[zbus(property)]
    fn pci_id(&self) -> String {
        self.row.now().pci_id.clone()
    }

    /// Our word for the product, empty where it is not known.
    #[zbus(property)]
    fn model(&self) -> String {
        text(self.row.now().model.as_ref())
    }

    /// Bound driver.
    #[zbus(property)]
    fn driver(&self) -> String {
        text(self.row.now().driver.as_ref())
    }

    /// How it yields slices.
    #[zbus(property)]
    fn mechanisms(&self) -> Vec<String> {
        self.row.now().mechanisms.clone()
    }

    /// NUMA node, -1 for none.
    #[zbus(property)]
    fn numa_node(&self) -> i64 {
        self.row.now().numa_node.map_or(-1, i64::from)
    }

    /// Device serial number.
    #[zbus(property)]
    fn serial(&self) -> String {
        text(self.row.now().serial.as_ref())
    }

    /// VFs enabled.
    #[zbus(property)]
    fn vfs(&self) -> u32 {
        self.row.now().vfs.unwrap_or_default()
    }

    /// VFs possible.
    #[zbus(property)]
    fn total_vfs(&self) -> u32 {
        self.row.now().total_vfs.unwrap_or_default()
    }

    /// What it is set to: mode and value.
    #[zbus(property)]
    fn modes(&self) -> HashMap<String, String> {
        self.row.now().modes.clone().into_iter().collect()
    }

    /// What of that the next load of its driver makes another: mode and value.
    #[zbus(property)]
    fn coming(&self) -> HashMap<String, String> {
        self.row.now().coming.clone().into_iter().collect()
    }

    /// The applied layout, in words.
    #[zbus(property)]
    fn layout(&self) -> String {
        text(self.row.now().layout.as_ref())
    }

    /// State, as in `ListParents`.
    #[zbus(property)]
    fn state(&self) -> String {
        self.row.now().state.clone()
    }

    /// Why it is in that state.
    #[zbus(property)]
    fn reason(&self) -> String {
        text(self.row.now().reason.as_ref())
    }

    /// Slices assigned.
    #[zbus(property)]
    fn assigned(&self) -> u32 {
        self.row.now().assigned
    }

    /// What the kernel's log says of it: `ok`, `degraded`, `failed`.
    #[zbus(property)]
    fn health(&self) -> String {
        self.row.now().health.clone()
    }

    /// The line that says so.
    #[zbus(property)]
    fn health_reason(&self) -> String {
        text(self.row.now().health_reason.as_ref())
    }

    /// Slices in which something of a VM may be left.
    #[zbus(property)]
    fn dirty(&self) -> u32 {
        self.row.now().dirty
    }
}

#[interface(name = "org.gpuslice1.Claim")]
impl<H: Handler> ClaimObject<H> {
    /// Ends it; with `force` also while a VM has its slices, which come back when the VM stops.
    #[zbus(out_args("answer"))]
    async fn release(
        &self,
        force: bool,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let key = self.row.now().claim.clone();
        order(&self.handler, &header, connection, Command::Unclaim { key, force }).await
    }

    /// `OWNER/NAME`.
    #[zbus(property(emits_changed_signal = "const"))]
    fn claim(&self) -> String {
        self.row.now().claim.to_string()
    }

    /// The owner's name, for people.
    #[zbus(property)]
    fn owner_name(&self) -> String {
        self.row.now().owner_name.clone()
    }

    /// What is asked.
    #[zbus(property)]
    fn profile(&self) -> String {
        self.row.now().profile.to_string()
    }

    /// How many slices.
    #[zbus(property)]
    fn count(&self) -> u32 {
        self.row.now().count
    }

    /// State, as in `ListClaims`.
    #[zbus(property)]
    fn state(&self) -> String {
        self.row.now().state.clone()
    }

    /// Why it is in that state.
    #[zbus(property)]
    fn reason(&self) -> String {
        text(self.row.now().reason.as_ref())
    }

    /// Bound slices.
    #[zbus(property)]
    fn slices(&self) -> Vec<String> {
        texts(&self.row.now().slices)
    }

    /// Home VFs.
    #[zbus(property)]
    fn home(&self) -> Vec<String> {
        texts(&self.row.now().home)
    }
}

/// A row that is an object.
trait Shown: Clone + PartialEq {
    fn path(&self) -> String;
}

impl Shown for ParentRow {
    fn path(&self) -> String {
        path("parent", &self.parent.to_string())
    }
}

impl Shown for ClaimRow {
    fn path(&self) -> String {
        path("claim", &self.claim.to_string())
    }
}

/// Path of an object. What a path may not hold is `_` and two hexadecimal digits, as in systemd's object paths.
fn path(kind: &str, name: &str) -> String {
    let mut path = format!("{HOST_PATH}/{kind}/");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

/// The objects that are on a connection.
#[derive(Debug)]
pub struct Objects<H> {
    handler: H,
    parents: BTreeMap<String, Row<ParentRow>>,
    claims: BTreeMap<String, Row<ClaimRow>>,
}

impl<H: Handler + Clone> Objects<H> {
    /// Puts the object manager on a connection; objects come with the first [`Self::refresh`].
    ///
    /// # Errors
    /// The bus is gone.
    pub async fn serve(connection: &Connection, handler: H) -> zbus::Result<Self> {
        let manager = Gate(Manager(handler.clone()));
        connection.object_server().at(HOST_PATH, manager).await?;
        Ok(Self { handler, parents: BTreeMap::new(), claims: BTreeMap::new() })
    }

    /// Makes objects and properties as the lists are now, and tells what became of them.
    ///
    /// # Errors
    /// The bus is gone.
    pub async fn refresh(&mut self, connection: &Connection) -> zbus::Result<()> {
        let own = Caller::own(connection);
        if let Ok(Answer::Parents { rows }) =
            self.handler.call(own.clone(), Command::ListParents).await
        {
            let handler = &self.handler;
            let object = |row| ParentObject { handler: handler.clone(), row };
            show(connection, &mut self.parents, rows, object).await?;
        }
        if let Ok(Answer::Claims { rows }) = self.handler.call(own, Command::ListClaims).await {
            let handler = &self.handler;
            let object = |row| ClaimObject { handler: handler.clone(), row };
            show(connection, &mut self.claims, rows, object).await?;
        }
        Ok(())
    }
}

async fn show<R: Shown, O: Gated>(
    connection: &Connection,
    shown: &mut BTreeMap<String, Row<R>>,
    rows: Vec<R>,
    object: impl Fn(Row<R>) -> O,
) -> zbus::Result<()> {
    let server = connection.object_server();
    let now: BTreeMap<String, R> = rows.into_iter().map(|row| (row.path(), row)).collect();
    for gone in shown.keys().filter(|path| !now.contains_key(*path)) {
        server.remove::<Gate<O>, _>(gone.as_str()).await?;
    }
    shown.retain(|path, _| now.contains_key(path));
    for (path, row) in now {
        match shown.get(&path) {
            Some(before) if *before.now() == row => {}
            Some(changes) => {
                let object = object(changes.shared());
                let interface = object.interface();
                let emitter = SignalEmitter::new(connection, path.as_str())?;
                let before = properties(interface, &emitter).await?;
                changes.exchange(row);
                let now = properties(interface, &emitter).await?;
                tell(&emitter, <O::Interface as Interface>::name(), before, now).await?;
            }
            None => {
                let row = Row::of(row);
                server.at(path.as_str(), Gate(object(row.shared()))).await?;
                shown.insert(path, row);
            }
        }
    }
    Ok(())
}

type Properties = HashMap<String, OwnedValue>;

/// What an object at the emitter's path shows to whoever asks for its properties.
async fn properties(
    object: &impl Interface,
    emitter: &SignalEmitter<'_>,
) -> zbus::Result<Properties> {
    let connection = emitter.connection();
    Ok(object.get_all(connection.object_server(), connection, None, emitter).await?)
}

/// Tells which have another value.
async fn tell(
    emitter: &SignalEmitter<'_>,
    interface: InterfaceName<'_>,
    before: Properties,
    mut now: Properties,
) -> zbus::Result<()> {
    now.retain(|name, value| before.get(name) != Some(value));
    if now.is_empty() {
        return Ok(());
    }
    let changed = now.iter().map(|(name, value)| Ok((name.as_str(), value.try_clone()?.into())));
    let changed: HashMap<&str, Value<'_>> = changed.collect::<zbus::zvariant::Result<_>>()?;
    fdo::Properties::properties_changed(emitter, interface, changed, (&[][..]).into()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_of_letters_digits_and_escapes() {
        for (name, want) in [
            ("0000:41:00.0", "/org/gpuslice1/parent/0000_3a41_3a00_2e0"),
            ("mtty", "/org/gpuslice1/parent/mtty"),
            ("a_b", "/org/gpuslice1/parent/a_5fb"),
        ] {
            assert_eq!(path("parent", name), want);
        }
    }
}
