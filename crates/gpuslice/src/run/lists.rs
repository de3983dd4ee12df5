//! Questions answered by rows.

use super::{Daemon, unexpected};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{self, Empty};
use crate::simulated;
use crate::style::Paint;
use gpuslice_api::client::{List, Listing};
use gpuslice_core::ids::ParentId;
use gpuslice_core::request::{Answer, Command, ParentRow, ProfileRow};
use serde::de::DeserializeOwned;
use std::path::Path;

pub async fn status(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    match daemon.call(Command::Status).await? {
        Answer::Status(row) => output.answer(&row, |paint| render::status(&row, paint)),
        other => Err(unexpected(&other)),
    }
}

pub async fn parents(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    show(output, &daemon.list(Listing::Parents).await?, render::parents, Empty::Parents)
}

pub async fn profiles(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    let list = daemon.list(Listing::Profiles).await?;
    let mut parents = Vec::new();
    if !output.is_json() && list.rows::<ProfileRow>()?.is_empty() {
        parents = daemon.list(Listing::Parents).await?.rows::<ParentRow>()?;
    }
    show(output, &list, render::profiles, Empty::profiles(&parents))
}

/// `profiles --host`: of a host that is written down.
pub fn profiles_of(host: &Path, config: Option<&Path>, output: &Output) -> Result<(), Failure> {
    let no_rows: [ProfileRow; 0] = [];
    match simulated::profiles(host, config)? {
        Answer::Profiles { rows } => output.answer(&rows, |paint| render::profiles(&rows, paint)),
        Answer::Parents { .. } if output.is_json() => output.json(&no_rows),
        Answer::Parents { rows } => {
            let (text, hint) = Empty::profiles(&rows).why();
            output.nothing(&text, hint);
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}

pub async fn types(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    show(output, &daemon.list(Listing::Types).await?, render::types, Empty::Types)
}

pub async fn slices(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    show(output, &daemon.list(Listing::Slices).await?, render::slices, Empty::Slices)
}

pub async fn claims(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    show(output, &daemon.list(Listing::Claims).await?, render::claims, Empty::Claims)
}

/// `what` is as the rows have it, or a GPU as people shorten it.
pub async fn history(
    daemon: &Daemon,
    what: Option<String>,
    since: Option<String>,
    output: &Output,
) -> Result<(), Failure> {
    let about = match what {
        Some(what) => Some(match (daemon.domain_of_id(&what).await, what.parse::<ParentId>()) {
            (Some(domain), _) => domain.uuid.to_string(),
            (None, Ok(ParentId::Pci(address))) => address.to_string(),
            (None, _) => what,
        }),
        None => None,
    };
    let all = about.is_none() && since.is_none();
    let empty = if all { Empty::History } else { Empty::HistoryOf };
    let list = daemon.list(Listing::History { about, since }).await?;
    show(output, &list, render::history, empty)
}

fn show<T: DeserializeOwned>(
    output: &Output,
    list: &List,
    table: fn(&[T], Paint) -> String,
    empty: Empty,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.json_text(list.json());
    }
    let rows = list.rows()?;
    if rows.is_empty() {
        let (text, hint) = empty.why();
        output.nothing(&text, hint);
        return Ok(());
    }
    output.text(&table(&rows, output.paint()))
}
