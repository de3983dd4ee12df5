//! What the daemon's object says when it is asked what it is.

use crate::names::HOST_PATH;
use zbus::names::InterfaceName;
use zbus::object_server::{Interface, ObjectServer};
use zbus::{fdo, interface};

/// In the place of zbus' own, which describes every object below as well and begins all calls at once. Which objects there
/// are, the object manager says.
struct Description(String);

#[interface(
    name = "org.freedesktop.DBus.Introspectable",
    spawn = false,
    introspection_docs = false
)]
impl Description {
    #[zbus(out_args("xml_data"))]
    fn introspect(&self) -> &str {
        &self.0
    }
}

/// The text for an object with one interface of ours, that of an object manager and those that every object has.
fn text(of: &impl Interface) -> String {
    let mut text = String::from("<node>\n");
    of.introspect_to_writer(&mut text, 2);
    fdo::ObjectManager.introspect_to_writer(&mut text, 2);
    fdo::Properties.introspect_to_writer(&mut text, 2);
    Description(String::new()).introspect_to_writer(&mut text, 2);
    text + "</node>\n"
}

/// Puts an interface on the daemon's object, and has it describe itself alone.
pub(super) async fn put<I: Interface>(server: &ObjectServer, interface: I) -> zbus::Result<()> {
    let text = text(&interface);
    server.at(HOST_PATH, interface).await?;
    let theirs = InterfaceName::from_static_str("org.freedesktop.DBus.Introspectable")?;
    server.remove_named(HOST_PATH, theirs).await?;
    server.at(HOST_PATH, Description(text)).await?;
    Ok(())
}
