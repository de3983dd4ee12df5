//! The outside world of a simulated host: people who pull cards, QEMUs that open devices. One JSON object a line,
//! answered by `{"ok":true}` or `{"ok":false,"error":"…"}`.

use crate::engine::{Handle, SimOrder};
use crate::server::socket::make_way;
use anyhow::Context;
use serde_json::json;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Opens the socket.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    make_way(path)?;
    UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))
}

/// Serves connections for ever.
pub async fn serve(listener: UnixListener, handle: Handle) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, handle.clone()));
    }
}

async fn connection(stream: UnixStream, handle: Handle) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let result = match serde_json::from_str::<SimOrder>(&line) {
            Ok(order) => handle.sim(order).await,
            Err(error) => Err(error.to_string()),
        };
        let reply = match result {
            Ok(()) => json!({"ok": true}),
            Err(error) => json!({"ok": false, "error": error}),
        };
        if writer.write_all(format!("{reply}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
