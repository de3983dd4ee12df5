//! `gpuslice explain`: a page needs nobody, an object the daemon.

use super::{Daemon, unexpected};
use crate::doctor::Check;
use crate::explain::{self, Rows};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use gpuslice_api::client::Listing;
use gpuslice_core::refusal::{Code, Page};
use gpuslice_core::request::{Answer, Command};

/// Prints the page of a code, or all codes; whether that was what was asked.
pub fn page(what: Option<&str>, output: &Output) -> Option<Result<(), Failure>> {
    let Some(what) = what else {
        let pages: Vec<Page> = pages().collect();
        return Some(output.answer(&pages, |paint| render::pages(&pages, paint)));
    };
    let page = pages().find(|page| page.code == what)?;
    Some(output.answer(&page, |paint| render::page(&page, paint)))
}

fn pages() -> impl Iterator<Item = Page> {
    let refusals = Code::ALL.iter().map(|code| code.page());
    refusals.chain(Check::ALL.iter().map(|check| check.page()))
}

/// Prints why an object is as it is.
pub async fn object(daemon: &Daemon, what: &str, output: &Output) -> Result<(), Failure> {
    let status = match daemon.call(Command::Status).await? {
        Answer::Status(row) => row,
        other => return Err(unexpected(&other)),
    };
    let rows = Rows {
        status,
        parents: daemon.list(Listing::Parents).await?.rows()?,
        profiles: daemon.list(Listing::Profiles).await?.rows()?,
        slices: daemon.list(Listing::Slices).await?.rows()?,
        claims: daemon.list(Listing::Claims).await?.rows()?,
    };
    let objects = match daemon.domain_of_id(what).await {
        // What has slices without a claim is known by its name alone.
        Some(domain) => explain::object(&rows, &domain.uuid.to_string())
            .or_else(|_| explain::object(&rows, &domain.name))?,
        None => explain::object(&rows, what)?,
    };
    output.answer(&objects, |paint| render::explained(&objects, paint))
}
