//! Memory that a reading of the host or a long list took and nobody needs any more. glibc keeps it for the next one;
//! a daemon that rests for weeks gives it back.

/// Gives back what is free.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn give_back() {
    // SAFETY: malloc_trim(3) takes no pointer, frees nothing that is in use, and may be called from any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Others than glibc keep no such store.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
