//! Who calls on the bus: whether there is room for a call before it is read, and whether its caller may do what it asks.
//! The daemon and the agent ask both here.

mod caller;
mod gate;
mod places;
mod polkit;

pub use caller::Caller;
pub(crate) use gate::{Gate, Gated};
pub use places::{Calls, Place, Places};
pub use polkit::{is_agent, require};

use gpuslice_core::refusal::Refusal;
use std::future::Future;

/// What lets calls in.
pub trait Admits: Send + Sync + 'static {
    /// Lets in a call before anything of it is read: its method, and the bytes of its arguments.
    fn admit(
        &self,
        _caller: &Caller,
        _method: &str,
        _length: usize,
    ) -> impl Future<Output = Result<Option<Place>, Refusal>> + Send {
        std::future::ready(Ok(None))
    }

    /// The answer to such a call of this method has left.
    fn answered(&self, _method: &str) {}
}
