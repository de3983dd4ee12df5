//! The few calls of libvirt that the `virt` crate does not wrap: event callbacks, the close callback and
//! `virDomainDetachDeviceAlias` (libvirt-domain.h, libvirt-host.h). All of the crate's `unsafe` is here.
//!
//! A callback runs on the event thread with libvirt's locks dropped. It copies what it is told into an owned
//! [`Notice`] and pushes it; it calls nothing that could wait.
#![allow(unsafe_code, reason = "the edge to libvirt's C interface")]

use gpuslice_core::domain::NAMESPACE;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use tokio::sync::broadcast;
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// What libvirt told us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The domain's persistent definition, our metadata or what it runs with may have changed, or it stopped.
    Look(Uuid),
    /// The domain is undefined for good.
    Gone(Uuid),
    /// Somebody has started the domain.
    Started(Uuid),
    /// It is on its way here from another host.
    Comes(Uuid),
    /// The connection broke. It carries the number of the connection, because the notice of a former one can
    /// arrive after the next was opened.
    Closed {
        /// As given to [`subscribe`].
        connection: u64,
        /// In words.
        reason: &'static str,
    },
}

/// What a guest answered to a hot-unplug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplugged {
    /// The domain.
    pub domain: Uuid,
    /// Alias of the device.
    pub alias: String,
    /// It let go of it; else it said that it does not.
    pub gone: bool,
}

/// Where to, what is told about one connection.
#[derive(Debug, Clone)]
pub struct Tell {
    /// For the watch.
    pub notices: UnboundedSender<Notice>,
    /// For whoever waits for a guest.
    pub unplugged: broadcast::Sender<Unplugged>,
}

/// What the callbacks of one connection own.
struct Sink {
    connection: u64,
    tell: Tell,
}

impl Sink {
    fn push(&self, notice: Notice) {
        // The receiver is gone only while the process ends.
        let _ = self.tell.notices.send(notice);
    }

    fn unplugged(&self, domain: Uuid, alias: &CStr, gone: bool) {
        let alias = alias.to_string_lossy().into_owned();
        if gone {
            // Also what nobody waits for: the guest may have taken its time, or somebody else unplugged it.
            self.push(Notice::Look(domain));
        }
        // Mostly nobody waits.
        let _ = self.tell.unplugged.send(Unplugged { domain, alias, gone });
    }
}

/// What to do about a lifecycle event. A rename is an Undefined followed by a Defined, each with its own detail;
/// only the second says something, the new name.
fn lifecycle_notice(domain: Uuid, event: c_int, detail: c_int) -> Option<Notice> {
    let is = |known: u32| u32::try_from(detail) == Ok(known);
    match u32::try_from(event).ok()? {
        sys::VIR_DOMAIN_EVENT_DEFINED | sys::VIR_DOMAIN_EVENT_STOPPED => Some(Notice::Look(domain)),
        sys::VIR_DOMAIN_EVENT_STARTED if is(sys::VIR_DOMAIN_EVENT_STARTED_MIGRATED) => {
            Some(Notice::Comes(domain))
        }
        sys::VIR_DOMAIN_EVENT_STARTED => Some(Notice::Started(domain)),
        // It has come.
        sys::VIR_DOMAIN_EVENT_RESUMED if is(sys::VIR_DOMAIN_EVENT_RESUMED_MIGRATED) => {
            Some(Notice::Look(domain))
        }
        sys::VIR_DOMAIN_EVENT_UNDEFINED if !is(sys::VIR_DOMAIN_EVENT_UNDEFINED_RENAMED) => {
            Some(Notice::Gone(domain))
        }
        _ => None,
    }
}

/// UUID of the domain an event is about; no round trip, it is part of the handle.
///
/// # Safety
/// `domain` is a live domain handle.
unsafe fn uuid_of(domain: sys::virDomainPtr) -> Option<Uuid> {
    let mut bytes = [0u8; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: the handle is live by contract, the buffer has the VIR_UUID_BUFLEN bytes that are written.
    let done = unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) };
    (done == 0).then(|| Uuid::from_bytes(bytes))
}

unsafe extern "C" fn on_lifecycle(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    sink: *mut c_void,
) -> c_int {
    // SAFETY: libvirt hands back the Box<Sink> of `subscribe`, which lives until `free_sink`; the domain handle
    // is live for the length of the callback.
    let (sink, uuid) = unsafe { (&*sink.cast::<Sink>(), uuid_of(domain)) };
    if let Some(notice) = uuid.and_then(|uuid| lifecycle_notice(uuid, event, detail)) {
        sink.push(notice);
    }
    0
}

unsafe extern "C" fn on_metadata(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _kind: c_int,
    namespace: *const c_char,
    sink: *mut c_void,
) {
    if namespace.is_null() {
        // Title or description.
        return;
    }
    // SAFETY: as in `on_lifecycle`; the namespace is a C string for the length of the callback.
    let (sink, uuid, namespace) = unsafe {
        let namespace = CStr::from_ptr(namespace);
        (&*sink.cast::<Sink>(), uuid_of(domain), namespace)
    };
    if let Some(uuid) = uuid.filter(|_| namespace.to_bytes() == NAMESPACE.as_bytes()) {
        sink.push(Notice::Look(uuid));
    }
}

unsafe extern "C" fn on_added(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _alias: *const c_char,
    sink: *mut c_void,
) {
    // SAFETY: as in `on_lifecycle`.
    let (sink, uuid) = unsafe { (&*sink.cast::<Sink>(), uuid_of(domain)) };
    if let Some(uuid) = uuid {
        // No hook is called for it, and whoever plugged it in need not be us.
        sink.push(Notice::Look(uuid));
    }
}

unsafe extern "C" fn on_removed(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    sink: *mut c_void,
) {
    // SAFETY: libvirt's arguments, passed on.
    unsafe { unplugged(domain, alias, sink, true) }
}

unsafe extern "C" fn on_removal_failed(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    sink: *mut c_void,
) {
    // SAFETY: as in `on_removed`.
    unsafe { unplugged(domain, alias, sink, false) }
}

/// What both tell: whether the guest gave the device back.
unsafe fn unplugged(
    domain: sys::virDomainPtr,
    alias: *const c_char,
    sink: *mut c_void,
    given_back: bool,
) {
    // SAFETY: as in `on_lifecycle`; the alias is a C string for the length of the callback.
    let (sink, uuid, alias) =
        unsafe { (&*sink.cast::<Sink>(), uuid_of(domain), CStr::from_ptr(alias)) };
    if let Some(uuid) = uuid {
        sink.unplugged(uuid, alias, given_back);
    }
}

unsafe extern "C" fn on_close(_connection: sys::virConnectPtr, reason: c_int, sink: *mut c_void) {
    // SAFETY: as in `on_lifecycle`.
    let sink = unsafe { &*sink.cast::<Sink>() };
    let reason = match u32::try_from(reason) {
        Ok(sys::VIR_CONNECT_CLOSE_REASON_EOF) => "libvirt closed the connection",
        Ok(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE) => "libvirt stopped answering keep-alives",
        Ok(sys::VIR_CONNECT_CLOSE_REASON_CLIENT) => "the agent closed the connection",
        _ => "the connection failed",
    };
    sink.push(Notice::Closed { connection: sink.connection, reason });
}

unsafe extern "C" fn free_sink(sink: *mut c_void) {
    // SAFETY: called once by libvirt, for the pointer `subscribe` made with Box::into_raw and gave away.
    drop(unsafe { Box::from_raw(sink.cast::<Sink>()) });
}

/// Registers what is told about one connection. On failure nothing stays registered.
pub fn subscribe(connect: &Connect, connection: u64, tell: &Tell) -> Result<Vec<c_int>, Error> {
    let sink = || {
        let sink = Sink { connection, tell: tell.clone() };
        Box::into_raw(Box::new(sink)).cast::<c_void>()
    };
    // SAFETY: the signature is the one libvirt calls for VIR_DOMAIN_EVENT_ID_LIFECYCLE; every event callback is
    // registered through the generic type and cast back by libvirt (VIR_DOMAIN_EVENT_CALLBACK).
    let lifecycle: sys::virConnectDomainEventGenericCallback =
        unsafe { std::mem::transmute(on_lifecycle as *const ()) };
    // SAFETY: likewise for VIR_DOMAIN_EVENT_ID_METADATA_CHANGE.
    let metadata: sys::virConnectDomainEventGenericCallback =
        unsafe { std::mem::transmute(on_metadata as *const ()) };
    // SAFETY: likewise for VIR_DOMAIN_EVENT_ID_DEVICE_ADDED.
    let added: sys::virConnectDomainEventGenericCallback =
        unsafe { std::mem::transmute(on_added as *const ()) };
    // SAFETY: likewise for VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED.
    let removed: sys::virConnectDomainEventGenericCallback =
        unsafe { std::mem::transmute(on_removed as *const ()) };
    // SAFETY: likewise for VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED.
    let removal_failed: sys::virConnectDomainEventGenericCallback =
        unsafe { std::mem::transmute(on_removal_failed as *const ()) };
    let mut ids = Vec::new();
    for (event, callback) in [
        (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
        (sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, metadata),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, added),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, removed),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, removal_failed),
    ] {
        let sink = sink();
        // SAFETY: the connection is open; a null domain means all; the sink is libvirt's until it calls free_sink.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connect.as_ptr(),
                ptr::null_mut(),
                event.cast_signed(),
                callback,
                sink,
                Some(free_sink),
            )
        };
        if id < 0 {
            let error = Error::last_error();
            // SAFETY: libvirt did not take it.
            unsafe { free_sink(sink) };
            unsubscribe(connect, &ids);
            return Err(error);
        }
        ids.push(id);
    }
    let sink = sink();
    // SAFETY: as above.
    let done = unsafe {
        sys::virConnectRegisterCloseCallback(
            connect.as_ptr(),
            Some(on_close),
            sink,
            Some(free_sink),
        )
    };
    if done < 0 {
        let error = Error::last_error();
        // SAFETY: libvirt did not take it.
        unsafe { free_sink(sink) };
        unsubscribe(connect, &ids);
        return Err(error);
    }
    Ok(ids)
}

/// Takes the callbacks away, so that the connection can be closed. On a broken connection libvirt forgets its own
/// side and reports that the other could not be told: nothing is left to do about that.
pub fn unsubscribe(connect: &Connect, ids: &[c_int]) {
    // SAFETY: the connection is still open on our side; on_close may or may not be registered, which libvirt says
    // by its result.
    unsafe {
        sys::virConnectUnregisterCloseCallback(connect.as_ptr(), Some(on_close));
    }
    for id in ids {
        // SAFETY: as above; the id is of this connection.
        unsafe {
            sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), *id);
        }
    }
}

/// Detaches the device with this alias; from a running domain it asks the guest and does not wait.
pub fn detach_alias(domain: &Domain, alias: &CString, flags: u32) -> Result<(), Error> {
    // SAFETY: the handle is live, the alias is a C string; libvirt keeps neither.
    let done = unsafe { sys::virDomainDetachDeviceAlias(domain.as_ptr(), alias.as_ptr(), flags) };
    if done < 0 {
        return Err(Error::last_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[test]
    fn a_domain_is_looked_at_when_a_device_is_plugged_in() {
        let connect = Connect::open(Some("test:///default")).unwrap();
        let domain = Domain::lookup_by_name(&connect, "test").unwrap();
        let ((notices, mut told), (unplugged, _)) =
            (mpsc::unbounded_channel(), broadcast::channel(1));
        let mut sink = Sink { connection: 1, tell: Tell { notices, unplugged } };
        // SAFETY: as libvirt calls it: a live domain handle, an alias and the sink.
        unsafe {
            let sink = (&raw mut sink).cast::<c_void>();
            on_added(connect.as_ptr(), domain.as_ptr(), c"hostdev0".as_ptr(), sink);
        }
        let uuid = Uuid::parse_str(&domain.get_uuid_string().unwrap()).unwrap();
        assert_eq!(told.try_recv(), Ok(Notice::Look(uuid)));
    }

    #[test]
    fn a_rename_is_not_an_end() {
        let vm = Uuid::from_u128(7);
        let removed = sys::VIR_DOMAIN_EVENT_UNDEFINED_REMOVED;
        let renamed = sys::VIR_DOMAIN_EVENT_UNDEFINED_RENAMED;
        for (event, detail, expected) in [
            (sys::VIR_DOMAIN_EVENT_DEFINED, 0, Some(Notice::Look(vm))),
            (sys::VIR_DOMAIN_EVENT_DEFINED, 2, Some(Notice::Look(vm))),
            (sys::VIR_DOMAIN_EVENT_STOPPED, 5, Some(Notice::Look(vm))),
            (sys::VIR_DOMAIN_EVENT_UNDEFINED, removed, Some(Notice::Gone(vm))),
            (sys::VIR_DOMAIN_EVENT_UNDEFINED, renamed, None),
            (sys::VIR_DOMAIN_EVENT_STARTED, 0, Some(Notice::Started(vm))),
            (sys::VIR_DOMAIN_EVENT_STARTED, 1, Some(Notice::Comes(vm))),
            (sys::VIR_DOMAIN_EVENT_STARTED, 2, Some(Notice::Started(vm))),
            (sys::VIR_DOMAIN_EVENT_RESUMED, 0, None),
            (sys::VIR_DOMAIN_EVENT_RESUMED, 1, Some(Notice::Look(vm))),
            (sys::VIR_DOMAIN_EVENT_SUSPENDED, 0, None),
            (4711, 0, None),
        ] {
            let notice = lifecycle_notice(vm, event.cast_signed(), detail.cast_signed());
            assert_eq!(notice, expected, "event {event} detail {detail}");
        }
        assert_eq!(lifecycle_notice(vm, -1, 0), None);
    }
}
