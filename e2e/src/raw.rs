//! Bytes over a socket: requests that no client would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a server may take to answer, and to close after it.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What came back before the connection was closed, or went quiet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawAnswer {
    /// The status of the first response; absent when none came.
    pub status: Option<u16>,
    /// Everything that came.
    pub text: String,
}

impl RawAnswer {
    /// The first value of a header of the first response.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (head, _) = self.text.split_once("\r\n\r\n")?;
        let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// What follows the head of the first response.
    #[must_use]
    pub fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }
}

/// Sends bytes as they are and reads until there is a whole answer or the server closes. A server may close before it has read everything.
///
/// # Errors
/// When there is no connection.
pub async fn send(base_url: &str, bytes: &[u8]) -> std::io::Result<RawAnswer> {
    send_within(base_url, bytes, PATIENCE).await
}

/// The same, for servers that may be right to wait for more: gives up earlier.
///
/// # Errors
/// When there is no connection.
pub async fn send_within(base_url: &str, bytes: &[u8], patience: Duration) -> std::io::Result<RawAnswer> {
    let authority = base_url.strip_prefix("http://").unwrap_or(base_url);
    let stream = TcpStream::connect(authority).await?;
    let (mut reader, mut writer) = stream.into_split();
    // A server that has answered and closed makes the rest of the writing fail: the answer is what counts.
    let writing = async {
        let _closed_early = writer.write_all(bytes).await;
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let reading = async {
        let mut chunk = vec![0_u8; 64 * 1024];
        while let Ok(Ok(length)) = timeout(patience, reader.read(&mut chunk)).await {
            answer.extend_from_slice(chunk.get(..length).unwrap_or_default());
            if length == 0 || answer.len() > ANSWER_BYTES_MAX || is_whole(&answer) {
                break;
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|status| status.parse().ok());
    Ok(RawAnswer { status, text })
}

/// Whether a response with a length has arrived. Envoy keeps a connection open for a second after it has refused a request.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let (head, rest) = answer.split_at(end);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| rest.len() >= length.saturating_add(4))
}

/// A request as bytes, with `host` and `connection: close`, and whatever else is given.
#[must_use]
pub fn request(method: &str, target: &[u8], headers: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = [method.as_bytes(), b" ", target, b" HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n"].concat();
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_has_come() {
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno".as_slice();
        assert!(is_whole(answer));
        assert!(!is_whole(&answer[..answer.len() - 1]) && !is_whole(&answer[..20]));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\n"));
    }
}
