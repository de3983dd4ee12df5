//! A scripted libvirt's domains: it reads whatever XML people and programs write, and prints it in its own way. As
//! in libvirt's own code the text is not edited but read (src/conf/domain_conf.c, virDomainDefParse), changed and
//! printed anew (virDomainDefFormat), so that what is read back is not what was written.
//!
//! What is mirrored: comments and white space of a person go, but in the metadata, which is printed by libxml2 and so in
//! double quotes; a definition keeps of all aliases only those that a user may give (`ua-`), a running domain has one
//! for each device; each device has a place in the guest from the time on when it is put in; one device, alias or place
//! twice in a domain is refused; of a live domain `prepare` is shown no alias yet but a user's.

use gpuslice_core::domain::{Domain, HostDevice, HostDeviceSource, NAMESPACE};
use gpuslice_core::ids::PciAddress;
use gpuslice_domxml::read_domain;
use roxmltree::{Document, Node};
use std::fmt::Write as _;
use std::ops::Deref;
use uuid::Uuid;

/// libvirt said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct No(pub &'static str);

/// How a domain is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Print {
    /// VIR_DOMAIN_XML_INACTIVE, also into a saved image.
    Inactive,
    /// As the `prepare` hook is shown it.
    Prepared(u32),
    /// As it runs.
    Live(u32),
}

/// A domain's XML as libvirt printed it, and what gpuslice reads in it: once, when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xml {
    def: Def,
    text: String,
    read: Domain,
}

impl Deref for Xml {
    type Target = Domain;

    fn deref(&self) -> &Domain {
        &self.read
    }
}

/// virDomainDef.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Def {
    name: String,
    uuid: Uuid,
    /// Each element below `<metadata>`, as it is printed.
    metadata: Vec<String>,
    /// Elements that nobody here changes.
    others: Vec<String>,
    devices: Vec<String>,
    hostdevs: Vec<Hostdev>,
}

/// virDomainHostdevDef.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hostdev {
    source: HostDeviceSource,
    managed: bool,
    alias: Option<String>,
    /// `<rom>` and `<boot>`.
    kept: Vec<String>,
    /// In the guest.
    bus: Option<u32>,
}

/// What stands around in a definition that virt-manager made.
const OTHERS: [&str; 4] = [
    "<memory unit='KiB'>8388608</memory>",
    "<vcpu placement='static'>4</vcpu>",
    "<os>\n    <type arch='x86_64' machine='pc-q35-10.0'>hvm</type>\n  </os>",
    "<on_crash>destroy</on_crash>",
];
const DEVICES: [&str; 2] = [
    "<disk type='file' device='disk'>\n      <source file='/var/lib/libvirt/images/vm.qcow2'/>\n      \
     <target dev='vda' bus='virtio'/>\n      \
     <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>\n    </disk>",
    "<controller type='pci' index='0' model='pcie-root'/>",
];

impl Xml {
    fn of(def: Def, print: Print) -> Self {
        let text = def.print(print);
        let read = read_domain(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        // Two readers of one text.
        let carried: Vec<HostDevice> = def.hostdevs.iter().map(|h| h.as_read()).collect();
        assert_eq!((read.uuid, &read.name, &read.devices), (def.uuid, &def.name, &carried));
        Self { def, text, read }
    }

    /// A definition with nothing of ours.
    pub fn plain(name: String, uuid: Uuid) -> Self {
        let [others, devices] = [OTHERS.as_slice(), DEVICES.as_slice()]
            .map(|elements| elements.iter().map(|element| (*element).to_owned()).collect());
        let (metadata, hostdevs) = (Vec::new(), Vec::new());
        Self::of(Def { name, uuid, metadata, others, devices, hostdevs }, Print::Inactive)
    }

    /// virDomainDefineXML.
    pub fn defined(text: &str) -> Result<Self, No> {
        let mut def = Def::parse(text, Print::Inactive)?;
        def.settle()?;
        Ok(Self::of(def, Print::Inactive))
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether both are the same but for the order of devices.
    pub fn same(&self, other: &Self) -> bool {
        let sorted = |def: &Def| {
            let mut def = def.clone();
            def.hostdevs.sort_by_key(|hostdev| hostdev.bus);
            def
        };
        sorted(&self.def) == sorted(&other.def)
    }

    /// What gpuslice reads in it.
    pub fn read(&self) -> &Domain {
        &self.read
    }

    /// The live copy of a definition, or of what an image holds, when it is being started.
    pub fn prepared(&self, id: u32) -> Self {
        Self::of(self.def.clone(), Print::Prepared(id))
    }

    /// The live copy when its devices have been given aliases.
    pub fn live(&self, id: u32) -> Self {
        let mut def = self.def.clone();
        def.name_all();
        Self::of(def, Print::Live(id))
    }

    /// What goes into the image of a saved domain.
    pub fn image(&self) -> Self {
        Self::defined(&self.def.print(Print::Inactive)).unwrap()
    }

    /// A change to a definition, or to a domain that runs.
    pub fn change(
        &self,
        print: Print,
        change: impl FnOnce(&mut Def) -> Result<(), No>,
    ) -> Result<Self, No> {
        let mut def = self.def.clone();
        change(&mut def)?;
        def.settle()?;
        if let Print::Live(_) = print {
            def.name_all();
        }
        Ok(Self::of(def, print))
    }

    /// The XML that a hook gave for that of an image. virDomainDefCheckABIStability: all but the hosts' side of devices
    /// has to be the same.
    pub fn instead(&self, text: &str) -> Result<Self, No> {
        let def = Def::parse(text, Print::Inactive)?;
        let mut same = def.clone();
        if def.hostdevs.len() != self.def.hostdevs.len() {
            return Err(No("another number of devices"));
        }
        for (hostdev, was) in same.hostdevs.iter_mut().zip(&self.def.hostdevs) {
            hostdev.source = was.source;
        }
        if same != self.def {
            return Err(No("it is another domain"));
        }
        Ok(Self::of(def, Print::Inactive))
    }
}

impl Hostdev {
    fn parse(node: Node, print: Print) -> Result<Self, No> {
        let address = child(node, "source").and_then(|source| child(source, "address"));
        let address = address.ok_or(No("missing source address"))?;
        let source = match node.attribute("type") {
            Some("mdev") => {
                let uuid = address.attribute("uuid").and_then(|uuid| uuid.parse().ok());
                HostDeviceSource::Mdev(uuid.ok_or(No("cannot parse uuid"))?)
            }
            Some("pci") => HostDeviceSource::Pci(pci(address).ok_or(No("bad address"))?),
            _ => return Err(No("unknown host device source address type")),
        };
        // virDomainDeviceInfoParseXML: of a definition a user's alone.
        let alias = child(node, "alias").and_then(|alias| alias.attribute("name"));
        let alias = alias.filter(|alias| print != Print::Inactive || alias.starts_with("ua-"));
        let kept = node.children().filter(|c| c.has_tag_name("rom") || c.has_tag_name("boot"));
        let bus = child(node, "address").and_then(|a| number(a.attribute("bus")?));
        Ok(Self {
            source,
            managed: node.attribute("managed") == Some("yes"),
            alias: alias.map(str::to_owned),
            kept: kept.map(raw).collect(),
            bus,
        })
    }

    fn print(&self, print: Print, out: &mut String) {
        let managed = if self.managed { "yes" } else { "no" };
        let (kind, source) = match self.source {
            HostDeviceSource::Mdev(uuid) => (
                format!("type='mdev' managed='{managed}' model='vfio-pci' display='off'"),
                format!("<address uuid='{uuid}'/>"),
            ),
            HostDeviceSource::Pci(at) => (
                format!("type='pci' managed='{managed}'"),
                format!(
                    "<address domain='0x{:04x}' bus='0x{:02x}' slot='0x{:02x}' function='0x{:x}'/>",
                    at.domain(),
                    at.bus(),
                    at.device(),
                    at.function()
                ),
            ),
        };
        let _ = writeln!(out, "    <hostdev mode='subsystem' {kind}>");
        if let (Print::Live(_), HostDeviceSource::Pci(_)) = (print, self.source) {
            out.push_str("      <driver name='vfio'/>\n");
        }
        let _ = writeln!(out, "      <source>\n        {source}\n      </source>");
        if let Some(alias) = self.shown_alias(print) {
            let _ = writeln!(out, "      <alias name='{alias}'/>");
        }
        for element in &self.kept {
            let _ = writeln!(out, "      {element}");
        }
        if let Some(bus) = self.bus {
            let _ = writeln!(
                out,
                "      <address type='pci' domain='0x0000' bus='0x{bus:02x}' slot='0x00' function='0x0'/>"
            );
        }
        out.push_str("    </hostdev>\n");
    }

    fn shown_alias(&self, print: Print) -> Option<&str> {
        let alias = self.alias.as_deref();
        alias.filter(|alias| matches!(print, Print::Live(_)) || alias.starts_with("ua-"))
    }

    /// As our own reader has to read it: an alias that nobody wrote is none.
    fn as_read(&self) -> HostDevice {
        let alias = self.alias.as_deref().filter(|alias| alias.starts_with("ua-"));
        // The attribute has no meaning on mediated devices.
        let managed = self.managed && matches!(self.source, HostDeviceSource::Pci(_));
        HostDevice { source: self.source, alias: alias.map(str::to_owned), managed }
    }
}

impl Def {
    fn parse(text: &str, print: Print) -> Result<Self, No> {
        let document = Document::parse(text).map_err(|_| No("not well-formed"))?;
        let root = document.root_element();
        let text_of = |name| child(root, name).and_then(|node| node.text());
        let name = text_of("name").ok_or(No("no name"))?.to_owned();
        let uuid = text_of("uuid").and_then(|text| text.parse().ok()).ok_or(No("no uuid"))?;
        let metadata = child(root, "metadata").into_iter().flat_map(|metadata| metadata.children());
        let metadata = metadata.filter(Node::is_element).map(|node| dumped(&raw(node))).collect();
        let apart = ["name", "uuid", "metadata", "devices"];
        let others = root.children().filter(Node::is_element);
        let others = others.filter(|node| !apart.contains(&node.tag_name().name())).map(raw);
        let below = || {
            let devices = child(root, "devices").into_iter();
            devices.flat_map(|devices| devices.children()).filter(Node::is_element)
        };
        let hostdevs = below().filter(|node| node.has_tag_name("hostdev"));
        Ok(Self {
            name,
            uuid,
            metadata,
            others: others.collect(),
            devices: below().filter(|node| !node.has_tag_name("hostdev")).map(raw).collect(),
            hostdevs: hostdevs
                .map(|node| Hostdev::parse(node, print))
                .collect::<Result<_, No>>()?,
        })
    }

    fn print(&self, print: Print) -> String {
        let mut out = String::with_capacity(4096);
        match print {
            Print::Inactive => out.push_str("<domain type='kvm'>\n"),
            Print::Prepared(id) | Print::Live(id) => {
                let _ = writeln!(out, "<domain type='kvm' id='{id}'>");
            }
        }
        let _ = writeln!(out, "  <name>{}</name>\n  <uuid>{}</uuid>", self.name, self.uuid);
        if !self.metadata.is_empty() {
            out.push_str("  <metadata>\n");
            for element in &self.metadata {
                let _ = writeln!(out, "    {element}");
            }
            out.push_str("  </metadata>\n");
        }
        for element in &self.others {
            let _ = writeln!(out, "  {element}");
        }
        out.push_str("  <devices>\n");
        for element in &self.devices {
            let _ = writeln!(out, "    {element}");
        }
        for hostdev in &self.hostdevs {
            hostdev.print(print, &mut out);
        }
        out.push_str("  </devices>\n</domain>\n");
        out
    }

    /// What is done to each domain that was read (virDomainDefPostParse, qemuDomainAssignAddresses, and the checks).
    fn settle(&mut self) -> Result<(), No> {
        for at in 0..self.hostdevs.len() {
            if self.hostdevs[at].bus.is_none() {
                let taken = |bus: &u32| self.hostdevs.iter().any(|h| h.bus == Some(*bus));
                let free = (5..=255).find(|bus| !taken(bus));
                self.hostdevs[at].bus = Some(free.ok_or(No("No more available PCI slots"))?);
            }
            let (before, here) = self.hostdevs.split_at(at);
            for other in before {
                if other.source == here[0].source {
                    return Err(No("device is already in the domain configuration"));
                }
                if other.alias.is_some() && other.alias == here[0].alias {
                    return Err(No("non unique alias detected"));
                }
                if other.bus == here[0].bus {
                    return Err(No("Attempted double use of PCI slot"));
                }
            }
        }
        Ok(())
    }

    /// qemuAssignDeviceAliases.
    fn name_all(&mut self) {
        for at in 0..self.hostdevs.len() {
            if self.hostdevs[at].alias.is_none() {
                let named = |name: &String| {
                    self.hostdevs.iter().any(|h| h.alias.as_deref() == Some(name.as_str()))
                };
                let free = (0..).map(|number| format!("hostdev{number}")).find(|n| !named(n));
                self.hostdevs[at].alias = free;
            }
        }
    }

    /// virDomainAttachDeviceFlags.
    pub fn attach(&mut self, hostdev: &str) -> Result<(), No> {
        let document = Document::parse(hostdev).map_err(|_| No("not well-formed"))?;
        self.hostdevs.push(Hostdev::parse(document.root_element(), Print::Inactive)?);
        Ok(())
    }

    /// virDomainDetachDeviceAlias.
    pub fn detach(&mut self, alias: &str) -> Result<(), No> {
        let of = |hostdev: &Hostdev| hostdev.alias.as_deref() == Some(alias);
        let at = self.hostdevs.iter().position(of).ok_or(No("no device found with alias"))?;
        self.hostdevs.remove(at);
        Ok(())
    }

    /// virDomainDetachDeviceFlags: virDomainHostdevFind goes by what is passed alone.
    pub fn detach_same(&mut self, hostdev: &str) -> Result<(), No> {
        let document = Document::parse(hostdev).map_err(|_| No("not well-formed"))?;
        let source = Hostdev::parse(document.root_element(), Print::Inactive)?.source;
        let at = self.hostdevs.iter().position(|h| h.source == source);
        self.hostdevs.remove(at.ok_or(No("host device not found"))?);
        Ok(())
    }

    /// virDomainSetMetadata of an element (virDomainDefSetMetadata, virXMLInjectNamespace): the first one of its namespace
    /// goes, and the new one is given a prefix throughout. One that has the prefix already is not to be found then.
    pub fn set_metadata(&mut self, element: Option<&str>, prefix: &str) -> Result<(), No> {
        let uri = format!("=\"{NAMESPACE}\"");
        if let Some(at) = self.metadata.iter().position(|element| element.contains(&uri)) {
            self.metadata.remove(at);
        }
        let Some(element) = element else { return Ok(()) };
        let document = Document::parse(element).map_err(|_| No("not well-formed"))?;
        if document.root_element().tag_name().namespace().is_some() {
            return Err(No("it has a namespace"));
        }
        let within = dumped(element).replace('<', &format!("<{prefix}:"));
        let within = within.replace(&format!("<{prefix}:/"), &format!("</{prefix}:"));
        let name = document.root_element().tag_name().name();
        let open = format!("<{prefix}:{name}");
        let declared = within.replacen(&open, &format!("{open} xmlns:{prefix}{uri}"), 1);
        self.metadata.push(declared);
        Ok(())
    }
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn raw(node: Node) -> String {
    node.document().input_text()[node.range()].to_owned()
}

/// xmlNodeDump: values in double quotes, no comments of ours to keep.
fn dumped(element: &str) -> String {
    element.replace('\'', "\"")
}

fn pci(address: Node) -> Option<PciAddress> {
    let part = |name| number(address.attribute(name).unwrap_or("0"));
    let narrow = |name| u8::try_from(part(name)?).ok();
    PciAddress::new(part("domain")?, narrow("bus")?, narrow("slot")?, narrow("function")?)
}

/// virStrToLong_uip of base 0.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
