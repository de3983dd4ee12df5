//! The kept corpus of the fuzz target hook_protocol, by the target's own check.
#![cfg(test)]

#[path = "../../../integration/fuzz/checks/hook_protocol.rs"]
mod check;
#[path = "../../../integration/fuzz/kept.rs"]
mod kept;

#[test]
fn the_kept_corpus_keeps_its_promises() {
    kept::each("integration/fuzz/corpus/hook_protocol", 1, check::check);
}
