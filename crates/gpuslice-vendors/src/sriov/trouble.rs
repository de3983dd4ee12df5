//! What the kernel itself says of a function that does not come back from a reset (drivers/pci/pci.c, pci_dev_wait):
//! `vfio-pci 0000:41:00.4: not ready 65535ms after FLR; giving up`. Any function may be meant, whoever made it.

use gpuslice_core::health::{Severity, Trouble, function_named};

/// See [`gpuslice_core::mechanism::Mechanism::trouble`].
pub(super) fn of_line(text: &str) -> Option<Trouble> {
    let said = text.contains(": not ready ") && text.ends_with("; giving up");
    let function = Some(function_named(text.split_once(": not ready ").filter(|_| said)?.0)?);
    Some(Trouble { function, vf: None, severity: Severity::Failed, reset_failed: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_did_not_come_back() {
        let line = "vfio-pci 0000:41:00.4: not ready 65535ms after FLR; giving up";
        let trouble = of_line(line).unwrap();
        assert_eq!(trouble.function.unwrap().to_string(), "0000:41:00.4");
        assert!(trouble.reset_failed);
        for text in [
            "vfio-pci 0000:41:00.4: not ready 1023ms after FLR; waiting",
            "vfio-pci 0000:41:00.4: ready 2047ms after FLR",
            "usb 1-1: not ready 3ms after reset; giving up",
        ] {
            assert_eq!(of_line(text), None, "{text}");
        }
    }
}
