//! Carrying out readiness probes.

use std::time::Duration;

use fleet_types::{PortBlock, limits};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use crate::{
    runtimes::{Probe, ProbeKind, Step},
    template::Variables,
};

/// Most of an HTTP answer that is looked at.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Largest message an agent may say over a WebSocket: it is read into this process's memory, which
/// the agent's limits do not bound.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Whether an agent is ready now.
///
/// # Errors
/// In words, when it is not.
pub(crate) async fn run(
    probe: &Probe,
    block: PortBlock,
    variables: &Variables,
) -> Result<(), String> {
    let limit = Duration::from_millis(probe.timeout_ms);
    let port = block.base.saturating_add(probe.port_offset);
    let probing = async {
        match probe.kind {
            ProbeKind::None => Ok(()),
            ProbeKind::Tcp => connect(port).await.map(drop),
            ProbeKind::Http => http(port, &probe.path, &probe.body).await,
            // Four kilobytes, which are not kept from one probe to the next.
            ProbeKind::WebSocket => Box::pin(websocket(&probe.url, &probe.steps, variables)).await,
        }
    };
    match tokio::time::timeout(limit, probing).await {
        // They may be the agent's own words.
        Ok(result) => result.map_err(|why| why.chars().take(limits::QUOTE_CHARS_MAX).collect()),
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    }
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| format!("port {port}: {e}"))
}

async fn http(port: u16, path: &str, body: &str) -> Result<(), String> {
    let mut stream = connect(port).await?;
    let failed = |e: std::io::Error| format!("port {port}: {e}");
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, content) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or("nothing");
    if status != "200" {
        return Err(format!("GET {path} answered {status}"));
    }
    if content.contains(body) { Ok(()) } else { Err(format!("GET {path}: body lacks {body:?}")) }
}

/// Whether `message` has at least what `wanted` has.
fn holds(message: &Value, wanted: &Value) -> bool {
    match (message, wanted) {
        (Value::Object(message), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| message.get(key).is_some_and(|found| holds(found, value))),
        (found, wanted) => found == wanted,
    }
}

async fn websocket(url: &str, steps: &[Step], variables: &Variables) -> Result<(), String> {
    let url = variables.fill(url)?;
    let most = Some(MESSAGE_BYTES_MAX);
    let config = WebSocketConfig::default().max_message_size(most).max_frame_size(most);
    let (mut socket, _) = connect_async_with_config(&url, Some(config), false)
        .await
        .map_err(|e| format!("websocket: {e}"))?;
    for step in steps {
        match step {
            Step::Send(value) => {
                let text = variables.fill_json(value)?.to_string();
                let sent = socket.send(Message::text(text)).await;
                sent.map_err(|e| format!("websocket: {e}"))?;
            }
            Step::Expect(wanted) => loop {
                let message = socket.next().await.ok_or("websocket: closed")?;
                let message = message.map_err(|e| format!("websocket: {e}"))?;
                match message {
                    Message::Text(text) => {
                        let Ok(json) = serde_json::from_str::<Value>(&text) else { continue };
                        if holds(&json, wanted) {
                            break;
                        }
                        if json.get("ok") == Some(&Value::Bool(false)) {
                            let why = json.pointer("/error/message").and_then(Value::as_str);
                            return Err(format!("refused: {}", why.unwrap_or("no reason given")));
                        }
                    }
                    Message::Close(frame) => {
                        let why = frame.map(|f| f.reason.to_string()).unwrap_or_default();
                        return Err(format!("websocket: closed by the agent: {why}"));
                    }
                    _ => {}
                }
            },
        }
    }
    // Best effort: the handshake is what was asked for.
    let _ = socket.close(None).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn expecting_is_matching_a_part() {
        let message = json!({"id": "1", "ok": true, "payload": {"type": "hello-ok", "x": 1}});
        assert!(holds(&message, &json!({"ok": true, "payload": {"type": "hello-ok"}})));
        assert!(!holds(&message, &json!({"ok": false})));
        assert!(!holds(&message, &json!({"payload": {"type": "other"}})));
    }

    #[tokio::test]
    async fn http_wants_status_and_body() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in ["200 OK", "200 OK", "503 Busy"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                let text = format!("HTTP/1.1 {answer}\r\n\r\nalive");
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        assert_eq!(http(port, "/", "alive").await, Ok(()));
        assert!(http(port, "/", "ready").await.unwrap_err().contains("lacks"));
        assert!(http(port, "/", "").await.unwrap_err().contains("503"));
    }

    #[tokio::test]
    async fn tcp_wants_a_listener() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe: Probe = toml::from_str("kind = \"tcp\"\nport_offset = 2").unwrap();
        let block = PortBlock { base: port - 2, size: 4 };
        assert_eq!(run(&probe, block, &Variables::default()).await, Ok(()));
        drop(listener);
        assert!(run(&probe, block, &Variables::default()).await.is_err());
    }

    /// A gateway that takes one token, and answers how it is as it is told; by OpenClaw's protocol.
    async fn gateway(health: Value) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                let challenge = json!({"type": "event", "event": "connect.challenge"});
                socket.send(Message::text(challenge.to_string())).await.unwrap();
                while let Some(Ok(Message::Text(text))) = socket.next().await {
                    let request: Value = serde_json::from_str(&text).unwrap();
                    let connects = request["method"] == "connect";
                    let knows = request["params"]["auth"]["token"] == "right";
                    let answer = match (connects, knows) {
                        (true, true) => json!({"ok": true, "payload": {"type": "hello-ok"}}),
                        (true, false) => json!({"ok": false, "error": {"message": "who?"}}),
                        (false, _) => json!({"ok": true, "payload": health}),
                    };
                    let mut answer = answer;
                    answer["id"] = request["id"].clone();
                    socket.send(Message::text(answer.to_string())).await.unwrap();
                }
            }
        });
        port
    }

    #[tokio::test]
    async fn an_openclaw_gateway_says_hello_and_that_it_is_well() {
        let runtimes = crate::runtimes::Runtimes::load(&[], &BTreeMap::new()).unwrap();
        let probe = &runtimes.get(&"openclaw".parse().unwrap()).unwrap().probe;
        let mut short = probe.clone();
        short.timeout_ms = 300;
        let ask = async |port: u16, token: &str, probe: &Probe| {
            let block = PortBlock { base: port, size: 1 };
            let variables = Variables::default().with("token", token);
            run(probe, block, &variables.with_number("port", port.into())).await
        };
        let well = gateway(json!({"ok": true})).await;
        assert_eq!(ask(well, "right", probe).await, Ok(()));
        assert_eq!(ask(well, "wrong", probe).await, Err("refused: who?".into()));
        let ill = gateway(json!({"ok": false})).await;
        assert_eq!(ask(ill, "right", &short).await, Err("no answer within 300 ms".into()));
        let wordy = gateway(json!({"ok": true, "why": "x".repeat(MESSAGE_BYTES_MAX)})).await;
        assert!(ask(wordy, "right", probe).await.unwrap_err().contains("too long"));
    }
}
