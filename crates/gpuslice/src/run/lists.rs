//! Questions answered by rows.

use super::{Daemon, unexpected};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{self, Empty};
use crate::style::Paint;
use gpuslice_core::request::{Answer, Command};
use serde::Serialize;

pub async fn status(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    match daemon.call(Command::Status).await? {
        Answer::Status(row) => output.answer(&row, |paint| render::status(&row, paint)),
        other => Err(unexpected(&other)),
    }
}

pub async fn parents(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    match daemon.call(Command::ListParents).await? {
        Answer::Parents { rows } => show(output, &rows, render::parents, Empty::Parents),
        other => Err(unexpected(&other)),
    }
}

pub async fn profiles(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    let rows = match daemon.call(Command::ListProfiles).await? {
        Answer::Profiles { rows } => rows,
        other => return Err(unexpected(&other)),
    };
    let mut parents = 0;
    if rows.is_empty() && !output.is_json() {
        parents = match daemon.call(Command::ListParents).await? {
            Answer::Parents { rows } => rows.len(),
            other => return Err(unexpected(&other)),
        };
    }
    show(output, &rows, render::profiles, Empty::Profiles(parents))
}

pub async fn types(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    match daemon.call(Command::ListTypes).await? {
        Answer::Types { rows } => show(output, &rows, render::types, Empty::Types),
        other => Err(unexpected(&other)),
    }
}

pub async fn slices(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    match daemon.call(Command::ListSlices).await? {
        Answer::Slices { rows } => show(output, &rows, render::slices, Empty::Slices),
        other => Err(unexpected(&other)),
    }
}

pub async fn claims(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    match daemon.call(Command::ListClaims).await? {
        Answer::Claims { rows } => show(output, &rows, render::claims, Empty::Claims),
        other => Err(unexpected(&other)),
    }
}

fn show<T: Serialize>(
    output: &Output,
    rows: &[T],
    table: fn(&[T], Paint) -> String,
    empty: Empty,
) -> Result<(), Failure> {
    if rows.is_empty() && !output.is_json() {
        let (text, hint) = empty.why();
        output.nothing(&text, hint);
        return Ok(());
    }
    output.answer(&rows, |paint| table(rows, paint))
}
