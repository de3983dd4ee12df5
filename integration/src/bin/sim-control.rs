//! Plays the outside world of a simulated host: sends lines to the daemon's `--sim-control` socket, whose path is in
//! `SIM_CONTROL`, and prints the answers.
//! `sim-control '{"do":"unplug","parent":"0000:0c:00.0"}' …`

use std::io::{BufRead, BufReader, Error, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Ok(path) = std::env::var("SIM_CONTROL") else {
        eprintln!("usage: SIM_CONTROL=SOCKET sim-control LINE…");
        return ExitCode::from(2);
    };
    match send(&path, std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {path}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn send(path: &str, lines: impl Iterator<Item = String>) -> Result<(), Error> {
    let mut to = UnixStream::connect(path)?;
    let mut from = BufReader::new(to.try_clone()?);
    for line in lines {
        writeln!(to, "{line}")?;
        let mut answer = String::new();
        from.read_line(&mut answer)?;
        print!("{answer}");
        if answer.contains("\"error\"") {
            return Err(Error::other(format!("{line} was refused")));
        }
    }
    Ok(())
}
