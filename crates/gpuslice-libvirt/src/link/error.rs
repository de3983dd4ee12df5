//! What libvirt refuses, by operation and object, and how it is told to the person who asked.

use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Hint, Refusal};
use virt::error::{Error as VirtError, ErrorNumber};

/// libvirt's own message, without the level and numbers that `virt` prints around it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.message())]
pub struct Said(pub VirtError);

/// A call to libvirt that did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is no connection now.
    #[error("not connected to libvirt at {uri}")]
    Down {
        /// Where it should be.
        uri: String,
    },
    /// It ended under a call, which may have done what it was asked.
    #[error("the connection to libvirt at {uri} ended")]
    Lost {
        /// Where it was.
        uri: String,
        /// What the call came to.
        source: Box<LinkError>,
    },
    /// virConnectOpen.
    #[error("cannot connect to libvirt at {uri}")]
    Open {
        /// Where.
        uri: String,
        /// libvirt's words.
        source: Said,
    },
    /// virConnectDomainEventRegisterAny, virConnectRegisterCloseCallback.
    #[error("cannot listen to libvirt's events at {uri}")]
    Listen {
        /// Where.
        uri: String,
        /// libvirt's words.
        source: Said,
    },
    /// virConnectListAllDomains.
    #[error("cannot list libvirt's domains")]
    List {
        /// libvirt's words.
        source: Said,
    },
    /// A text no domain can be named by.
    #[error("{domain:?} cannot name a domain")]
    BadName {
        /// As given.
        domain: String,
    },
    /// virDomainLookupBy….
    #[error("cannot find domain {domain}")]
    Find {
        /// As named by who asked.
        domain: String,
        /// libvirt's words.
        source: Said,
    },
    /// virDomainGetXMLDesc, virDomainIsActive, virDomainIsPersistent.
    #[error("cannot read domain {domain}")]
    Read {
        /// Its name or UUID.
        domain: String,
        /// libvirt's words.
        source: Said,
    },
    /// A transient domain, or one undefined meanwhile.
    #[error("libvirt keeps no definition of domain {domain}")]
    NotKept {
        /// Its name or UUID.
        domain: String,
    },
    /// It stopped meanwhile.
    #[error("domain {domain} does not run")]
    NotRunning {
        /// Its name or UUID.
        domain: String,
    },
    /// XML from libvirt that cannot be understood or edited.
    #[error("cannot understand the XML of domain {domain}")]
    Xml {
        /// Its name or UUID.
        domain: String,
        /// Why.
        source: Box<gpuslice_domxml::DomXmlError>,
    },
    /// virDomainSetMetadata.
    #[error("cannot write gpuslice's metadata into domain {domain}")]
    SetMetadata {
        /// Its name or UUID.
        domain: String,
        /// libvirt's words.
        source: Said,
    },
    /// virDomainDetachDeviceAlias.
    #[error("cannot take device {alias} out of domain {domain}")]
    Detach {
        /// Its name or UUID.
        domain: String,
        /// Of the hostdev.
        alias: String,
        /// libvirt's words.
        source: Said,
    },
    /// virDomainAttachDeviceFlags.
    #[error("cannot put device {alias} into domain {domain}")]
    Attach {
        /// Its name or UUID.
        domain: String,
        /// Of the hostdev.
        alias: String,
        /// libvirt's words.
        source: Said,
    },
    /// virDomainAttachDeviceFlags on a running domain.
    #[error("cannot hot-plug device {alias} into domain {domain}")]
    Plug {
        /// Its name.
        domain: String,
        /// Of the hostdev.
        alias: String,
        /// libvirt's words.
        source: Said,
    },
    /// virDomainDetachDeviceAlias on a running domain.
    #[error("cannot hot-unplug device {alias} from domain {domain}")]
    Unplug {
        /// Its name.
        domain: String,
        /// Of the hostdev.
        alias: String,
        /// libvirt's words.
        source: Said,
    },
    /// virDomainDefineXML.
    #[error("cannot define domain {domain}")]
    Define {
        /// Its name or UUID.
        domain: String,
        /// libvirt's words.
        source: Said,
    },
    /// virDomainCreate.
    #[error("cannot start domain {domain}")]
    Start {
        /// Its name or UUID.
        domain: String,
        /// libvirt's words.
        source: Said,
    },
}

impl LinkError {
    /// XML of this domain that has no meaning.
    pub fn xml(domain: &str, error: gpuslice_domxml::DomXmlError) -> Self {
        Self::Xml { domain: domain.to_owned(), source: Box::new(error) }
    }

    fn said(&self) -> Option<&Said> {
        match self {
            Self::Down { .. }
            | Self::Lost { .. }
            | Self::BadName { .. }
            | Self::NotKept { .. }
            | Self::NotRunning { .. }
            | Self::Xml { .. } => None,
            Self::Open { source, .. }
            | Self::Listen { source, .. }
            | Self::List { source }
            | Self::Find { source, .. }
            | Self::Read { source, .. }
            | Self::SetMetadata { source, .. }
            | Self::Detach { source, .. }
            | Self::Attach { source, .. }
            | Self::Plug { source, .. }
            | Self::Unplug { source, .. }
            | Self::Define { source, .. }
            | Self::Start { source, .. } => Some(source),
        }
    }

    /// libvirt knows no such domain: not, or not any more.
    pub fn no_domain(&self) -> bool {
        self.said().is_some_and(|said| said.0.code() == ErrorNumber::NoDomain)
    }

    /// The driver behind the connection does not have this call at all.
    pub fn no_support(&self) -> bool {
        self.said().is_some_and(|said| said.0.code() == ErrorNumber::NoSupport)
    }

    /// Something else of libvirt's has the domain for too long, as a snapshot.
    fn no_time(&self) -> bool {
        self.said().is_some_and(|said| said.0.code() == ErrorNumber::OperationTimeout)
    }

    /// What libvirt's number alone tells, whatever was called.
    fn by_number(number: ErrorNumber) -> Option<(Code, Hint)> {
        Some(match number {
            ErrorNumber::NoDomain => (Code::Unknown, hint!("name one of virsh list --all")),
            ErrorNumber::AuthFailed | ErrorNumber::AuthCancelled | ErrorNumber::AuthUnavailable => {
                (
                    Code::NotPermitted,
                    hint!(
                        "usermod -aG libvirt gpuslice-agent, then systemctl restart gpuslice-libvirt-agent"
                    ),
                )
            }
            // libvirt has an access driver, which judges each call.
            ErrorNumber::AccessDenied => (
                Code::NotPermitted,
                hint!(
                    "allow org.libvirt.api.domain.* to user gpuslice-agent in /etc/polkit-1/rules.d"
                ),
            ),
            _ => return None,
        })
    }

    /// What the call tells where libvirt's number does not.
    fn by_call(&self) -> (Code, Hint) {
        match self {
            Self::Down { .. } | Self::Lost { .. } | Self::Open { .. } | Self::Listen { .. } => {
                (Code::Unreachable, hint!("systemctl start libvirtd; or systemctl start virtqemud"))
            }
            Self::NotRunning { .. } => (
                Code::BadRequest,
                hint!("the same again without --live (it takes effect at the next start)"),
            ),
            Self::BadName { .. } => (Code::BadRequest, hint!("name one of virsh list --all")),
            Self::NotKept { domain } => (
                Code::BadRequest,
                hint!(
                    "virsh dumpxml {} > domain.xml, then virsh define domain.xml, then the same again",
                    domain
                ),
            ),
            Self::Xml { domain, .. } => (
                Code::BadRequest,
                hint!("virsh edit {}: correct what is named here, then the same again", domain),
            ),
            Self::Plug { domain, source, .. } if source.0.message().contains("PCI slot") => (
                Code::Unsupported,
                hint!(
                    "the same again without --live (it takes effect at the next start); or virsh edit {}: one more \
                     <controller type='pci' model='pcie-root-port'/> (for hot-plug after the next start)",
                    domain
                ),
            ),
            Self::Plug { .. } => {
                let code = if self.no_support() { Code::Unsupported } else { Code::DeviceFailed };
                (code, hint!("the same again without --live (it takes effect at the next start)"))
            }
            _ => (
                if self.no_time() { Code::Timeout } else { Code::DeviceFailed },
                hint!("journalctl -u libvirtd -u virtqemud, mend what it says, then try again"),
            ),
        }
    }
}

impl From<LinkError> for Refusal {
    fn from(error: LinkError) -> Self {
        let (code, hint) = match error.said().map(|said| said.0.code()) {
            Some(number) => LinkError::by_number(number).unwrap_or_else(|| error.by_call()),
            None => error.by_call(),
        };
        let mut refusal = Self::new(code, error.to_string());
        let mut below = std::error::Error::source(&error);
        while let Some(cause) = below {
            refusal = refusal.because(cause.to_string());
            below = cause.source();
        }
        refusal.hint(hint)
    }
}
