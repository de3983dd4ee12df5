//! The kept corpus of the fuzz target domain_xml, by the target's own check.
#![cfg(test)]

#[path = "../../../integration/fuzz/checks/domain_xml.rs"]
mod check;
#[path = "../../../integration/fuzz/kept.rs"]
mod kept;

#[test]
fn the_kept_corpus_keeps_its_promises() {
    for folder in ["integration/fuzz/corpus/domain_xml", "examples/domains"] {
        kept::each(folder, 8, check::check);
    }
}
