//! Finds and reads the configuration files; their meaning is the core's.

use gpuslice_core::config::{self, ConfigError, Place};
use gpuslice_core::machine::ConfigRead;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;

/// Reads `gpuslice.toml` and `conf.d/*.toml`, in that order and by name. Absent files are an empty configuration;
/// unreadable ones are not.
pub fn read(dir: &Path) -> ConfigRead {
    let mut errors = Vec::new();
    let mut files = vec![dir.join("gpuslice.toml")];
    files.extend(fragments(&dir.join("conf.d"), &mut errors));
    let mut texts = Vec::new();
    for path in files {
        match std::fs::read(&path).map(String::from_utf8) {
            Ok(Ok(text)) => texts.push((path.display().to_string(), text)),
            Ok(Err(error)) => errors.push(not_text(&path, &error)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => errors.push(failed(&path, &error)),
        }
    }
    match (config::parse(&texts), errors.is_empty()) {
        (Ok(config), true) => Ok(config),
        (parsed, _) => {
            errors.extend(parsed.err().unwrap_or_default());
            Err(errors)
        }
    }
}

fn fragments(dir: &Path, errors: &mut Vec<ConfigError>) -> Vec<PathBuf> {
    let found = std::fs::read_dir(dir).and_then(|entries| {
        // One that cannot be listed may be any of them.
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()
    });
    let mut paths: Vec<PathBuf> = match found {
        Ok(paths) => paths,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            errors.push(failed(dir, &error));
            Vec::new()
        }
    };
    paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    paths
}

fn failed(path: &Path, error: &std::io::Error) -> ConfigError {
    let (file, message) = (path.display().to_string(), format!("cannot be read: {error}"));
    ConfigError { file, place: None, message }
}

fn not_text(path: &Path, error: &FromUtf8Error) -> ConfigError {
    let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
    let place = Some(Place::after(&String::from_utf8_lossy(valid)));
    ConfigError { file: path.display().to_string(), place, message: "is not UTF-8".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "[[gpu]]\nmatch = { driver = \"x\" }\nlayout = { vfs = 1 }\n";

    #[test]
    fn absent_is_empty_and_fragments_follow_in_order() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap().rules.len(), 0);
        let parts = dir.path().join("conf.d");
        std::fs::create_dir(&parts).unwrap();
        std::fs::write(parts.join("20-b.toml"), RULE).unwrap();
        std::fs::write(parts.join("10-a.toml"), RULE).unwrap();
        std::fs::write(parts.join("30-c.toml.bak"), "not read").unwrap();
        std::fs::write(dir.path().join("gpuslice.toml"), RULE).unwrap();
        let origins: Vec<_> =
            read(dir.path()).unwrap().rules.into_iter().map(|r| r.origin).collect();
        let names: Vec<_> =
            origins.iter().map(|o| o.rsplit('/').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["gpuslice.toml:1", "10-a.toml:1", "20-b.toml:1"]);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gpuslice.toml");
        let told = |path: &Path| {
            let errors = read(path).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:?}");
            errors[0].to_string()
        };
        std::fs::create_dir(&file).unwrap();
        let told_of_a_folder = told(dir.path());
        assert!(
            told_of_a_folder.starts_with(&format!("{}: cannot be read: ", file.display())),
            "{told_of_a_folder}"
        );
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, b"[[gpu]]\nmatch\xff").unwrap();
        assert_eq!(told(dir.path()), format!("{}:2:6: is not UTF-8", file.display()));
        let errors = read(&file).unwrap_err();
        assert!(errors.iter().all(|error| error.place.is_none()), "{errors:?}");
    }
}
