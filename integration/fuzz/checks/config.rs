//! Whatever the bytes: no crash, and every mistake has a place within the file and one line of text.

use gpuslice_core::config;

/// Panics when a promise is broken.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Err(errors) = config::parse(&[("gpuslice.toml".to_owned(), text.to_owned())]) else {
        return;
    };
    assert!(!errors.is_empty());
    for error in errors {
        let Some(place) = error.place else { panic!("{error}") };
        assert!((1..=text.split('\n').count()).contains(&place.line), "{error}");
        assert!(place.column >= 1, "{error}");
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error}");
    }
}
