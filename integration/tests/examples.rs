//! The sample configurations are read by the daemon's own reader: what they show, works.

#![cfg(test)]

use gpuslice_core::config;
use gpuslice_integration::{files, root};
use std::fs;

#[test]
fn every_sample_configuration_is_accepted() {
    let samples: Vec<_> =
        files().into_iter().filter(|path| path.starts_with("examples/config")).collect();
    assert!(samples.len() >= 3, "{samples:?}");
    for path in samples {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let name = path.display().to_string();
        let config =
            config::parse(&[(name, text.clone())]).unwrap_or_else(|errors| panic!("{errors:#?}"));
        assert_ne!(config, config::Config::default(), "{}: says nothing", path.display());
        assert!(
            text.starts_with("# /etc/gpuslice/"),
            "{}: begins with where it belongs",
            path.display()
        );
    }
}
