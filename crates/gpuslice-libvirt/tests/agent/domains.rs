//! The host of libvirt's test driver, from a person's side: another connection to the same `test:///default`.

use std::time::Duration;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

pub const URI: &str = "test:///default";

/// What a person has in a domain and we must not touch.
pub const THEIRS: &str = "<hostdev mode='subsystem' type='pci' managed='yes'><source>\
    <address domain='0x0000' bus='0x07' slot='0x00' function='0x0'/></source></hostdev>";

pub struct Person {
    connect: Connect,
}

impl Person {
    pub fn connect() -> Self {
        gpuslice_libvirt::link::start_events().unwrap();
        Self { connect: Connect::open(Some(URI)).unwrap() }
    }

    pub fn domain(&self, uuid: Uuid) -> Domain {
        Domain::lookup_by_uuid(&self.connect, uuid).unwrap()
    }

    pub fn define(&self, uuid: Uuid, name: &str, claims: &str, devices: &str) {
        Domain::define_xml(&self.connect, &xml(uuid, name, claims, devices)).unwrap();
    }

    /// With its memory on a NUMA node.
    pub fn define_on_node(&self, uuid: Uuid, name: &str, claims: &str, node: u32) {
        let tuned = format!("<numatune><memory mode='strict' nodeset='{node}'/></numatune><os>");
        let xml = xml(uuid, name, claims, "").replace("<os>", &tuned);
        Domain::define_xml(&self.connect, &xml).unwrap();
    }

    pub fn create_transient(&self, uuid: Uuid, name: &str, claims: &str, devices: &str) {
        Domain::create_xml(&self.connect, &xml(uuid, name, claims, devices), 0).unwrap();
    }

    pub fn live_xml(&self, uuid: Uuid) -> String {
        self.domain(uuid).get_xml_desc(0).unwrap()
    }

    pub fn start(&self, uuid: Uuid) {
        self.domain(uuid).create().unwrap();
    }

    pub fn stop(&self, uuid: Uuid) {
        self.domain(uuid).destroy().unwrap();
    }

    pub fn running(&self, uuid: Uuid) -> bool {
        self.domain(uuid).is_active().unwrap()
    }

    pub fn undefine(&self, uuid: Uuid) {
        self.domain(uuid).undefine().unwrap();
    }

    pub fn xml(&self, uuid: Uuid) -> String {
        self.domain(uuid).get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).unwrap()
    }

    /// Waits until the definition is as a test wants it.
    pub async fn becomes(&self, uuid: Uuid, what: &str, so: impl Fn(&str) -> bool) -> String {
        let wait = async {
            loop {
                let xml = self.xml(uuid);
                if so(&xml) {
                    return xml;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap_or_else(|_| panic!("not {what}: {}", self.xml(uuid)))
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        // The next test finds the host without this one's domains.
        for domain in self.connect.list_all_domains(0).unwrap_or_default() {
            if domain.get_name().is_ok_and(|name| name == "test") {
                continue;
            }
            if domain.is_active().unwrap_or_default() {
                let _ = domain.destroy();
            }
            let _ = domain.undefine();
        }
        let _ = self.connect.close();
    }
}

pub fn xml(uuid: Uuid, name: &str, claims: &str, devices: &str) -> String {
    let metadata = if claims.is_empty() {
        String::new()
    } else {
        format!(
            "<gpuslice:claims xmlns:gpuslice='urn:gpuslice:domain:1'>{claims}</gpuslice:claims>"
        )
    };
    format!(
        "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><metadata>\
         <app:x xmlns:app='urn:app'>theirs</app:x>{metadata}</metadata><memory>8192</memory>\
         <os><type>hvm</type></os><devices>{devices}</devices></domain>"
    )
}

pub fn hostdev(alias: &str, function: u8, guest: &str) -> String {
    format!(
        "<hostdev mode='subsystem' type='pci' managed='no'><source>\
         <address domain='0x0000' bus='0x41' slot='0x00' function='0x{function}'/></source>\
         <alias name='{alias}'/>{guest}</hostdev>"
    )
}

pub fn source(function: u8) -> String {
    format!("<address domain='0x0000' bus='0x41' slot='0x00' function='0x{function}'/>")
}
