//! Rows to text. Everything here is a function of its arguments.

mod changes;
mod doctor;
mod explained;
mod export;
mod history;
mod lists;
mod status;

pub use changes::{drain, plan, xml};
pub use doctor::findings;
pub use explained::{explained, page, pages};
pub use export::proxmox;
pub use history::history;
pub use lists::{claims, parents, profiles, slices, types};
pub use status::{Empty, status};

/// `1 slice`, `2 slices`.
pub fn counted(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}
