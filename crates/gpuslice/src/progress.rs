//! One line on the terminal while something takes long, and nothing where no terminal is.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Runs `work`. While it lasts longer than a moment, a terminal on stderr shows `what` and the seconds.
pub async fn shown<T>(what: &str, work: impl Future<Output = T>) -> T {
    if !io::stderr().is_terminal() {
        return work.await;
    }
    tokio::pin!(work);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut seconds = 0_u64;
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            _ = tick.tick() => {
                if seconds > 0 {
                    let _ = write!(io::stderr(), "\r\x1b[K{what} … {seconds} s");
                }
                seconds += 1;
            }
        }
    };
    if seconds > 1 {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    done
}
