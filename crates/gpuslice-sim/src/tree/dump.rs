//! The tree as it stands, for whoever writes it into a directory to let other programs look at it. What is written
//! there is inert: it has the content, not the behaviour.

use super::files::Mode;
use super::resolve::relative;
use super::{Dir, Fixed, Node};
use crate::kernel::Kernel;

/// One entry of the projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projected {
    /// A directory.
    Dir,
    /// A file and what it reads; a write-only file is empty.
    File(Vec<u8>),
    /// A link and its target as stored.
    Link(String),
}

impl Kernel {
    /// Calls `each` with every path, directories before what they hold.
    pub fn dump(&self, each: &mut dyn FnMut(&str, Projected)) {
        self.dump_below("", &Dir::Fixed(Fixed::Root), each);
    }

    fn dump_below(&self, path: &str, dir: &Dir, each: &mut dyn FnMut(&str, Projected)) {
        for name in self.names(dir) {
            let below = format!("{path}/{name}");
            match self.entry(dir, &name) {
                Some(Node::Dir(inner)) => {
                    each(&below, Projected::Dir);
                    self.dump_below(&below, &inner, each);
                }
                Some(Node::Link(target)) => {
                    each(&below, Projected::Link(relative(path, &self.path(&target))));
                }
                Some(Node::Descriptor(target)) => each(&below, Projected::Link(target)),
                Some(Node::File(file)) => {
                    let readable = file.mode() != Mode::Write;
                    let content = readable.then(|| self.content(&file).ok()).flatten();
                    each(&below, Projected::File(content.unwrap_or_default()));
                }
                None => {}
            }
        }
    }
}
