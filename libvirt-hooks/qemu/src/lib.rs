//! What the qemu hook makes of a domain's XML and of the daemon's answer, without the socket in between: the program asks
//! over it, and the tests of the whole ask the state machine.
#![forbid(unsafe_code)]

pub mod verdict;
