//! A blocking HTTP/1.1 client for the control plane: JSON in, JSON out, one kept-alive connection. Owns its
//! connection; opens it again when the server closed it between two requests.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long an answer may take; password hashing is the slowest thing behind the admin routes.
const PATIENCE: Duration = Duration::from_secs(30);

/// One kept-alive connection to the control plane.
pub struct Http {
    address: SocketAddr,
    bearer: Option<String>,
    stream: Option<TcpStream>,
}

impl Http {
    /// Nothing is connected yet. `bearer` goes with every request.
    pub fn new(address: SocketAddr, bearer: Option<String>) -> Self {
        Self { address, bearer, stream: None }
    }

    /// POSTs a JSON document.
    ///
    /// # Errors
    /// A sentence naming the route when the server cannot be reached or answers with an error.
    pub fn post(&mut self, path: &str, body: &Value) -> Result<Value, String> {
        self.ask("POST", path, Some(body))
    }

    /// GETs a JSON document.
    ///
    /// # Errors
    /// As [`Http::post`].
    pub fn get(&mut self, path: &str) -> Result<Value, String> {
        self.ask("GET", path, None)
    }

    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let bearer =
            self.bearer.as_ref().map(|b| format!("Authorization: Bearer {b}\r\n")).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{bearer}\
             Content-Length: {}\r\n\r\n{text}",
            self.address,
            text.len()
        );
        let address = self.address;
        let fail = |what: String| format!("{method} {path} at {address}: {what}");
        let reused = self.stream.is_some();
        let (status, answer) = match self.exchange(request.as_bytes()) {
            Ok(done) => done,
            // A kept-alive connection may have been closed meanwhile; a fresh one tells the truth.
            Err(_) if reused => self.exchange(request.as_bytes()).map_err(fail)?,
            Err(what) => return Err(fail(what)),
        };
        let value: Value = match answer.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&answer).map_err(|e| fail(format!("answer is no JSON: {e}")))?,
        };
        if (200..300).contains(&status) {
            return Ok(value);
        }
        let sentence = value["sentence"].as_str().unwrap_or("no sentence");
        Err(fail(format!("status {status}, {sentence}")))
    }

    fn exchange(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>), String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).map_err(|e| e.to_string())?;
                stream.set_nodelay(true).map_err(|e| e.to_string())?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
                stream
            }
        };
        stream.write_all(request).map_err(|e| e.to_string())?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 8192];
        loop {
            if let Some((status, start, end, keep)) = whole(&bytes)? {
                if keep {
                    self.stream = Some(stream);
                }
                return Ok((status, bytes[start..end].to_vec()));
            }
            match stream.read(&mut chunk) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(e) => return Err(e.to_string()),
            }
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"));
            }
        }
    }
}

/// The answer in `bytes`, once it is whole: status, where its body lies, and whether the connection stays.
fn whole(bytes: &[u8]) -> Result<Option<(u16, usize, usize, bool)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|e| format!("no HTTP answer: {e}"))?;
    let httparse::Status::Complete(start) = parsed else {
        return Ok(None);
    };
    let field = |name: &str| {
        let found = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.map(|h| String::from_utf8_lossy(h.value).trim().to_ascii_lowercase())
    };
    let status = response.code.expect("a complete response has a status");
    let length = match field("content-length") {
        Some(text) => text.parse::<usize>().map_err(|_| "the content length is no number".to_owned())?,
        None if status == 204 => 0,
        None => return Err("the answer has no content length".into()),
    };
    let keep = field("connection").is_none_or(|value| value != "close");
    let end = start + length.min(ANSWER_BYTES_MAX);
    Ok((end <= bytes.len()).then_some((status, start, end, keep)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_only_when_its_body_is() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue";
        for cut in 0..bytes.len() {
            assert_eq!(whole(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(whole(bytes).unwrap(), Some((200, 38, 42, true)));
        let close = b"HTTP/1.1 503 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(whole(close).unwrap().map(|(s, .., keep)| (s, keep)), Some((503, false)));
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(whole(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    #[test]
    fn a_connection_is_kept_and_opened_again_and_errors_are_sentences() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for answers in [["200 OK", "200 OK"].as_slice(), &["401 Unauthorized"]] {
                let (mut stream, _) = listener.accept().unwrap();
                for status in answers {
                    let mut request = vec![0; 4096];
                    let count = stream.read(&mut request).unwrap();
                    seen.push(String::from_utf8_lossy(&request[..count]).into_owned());
                    let body = r#"{"sentence":"No.","ok":1}"#;
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
            seen
        });
        let mut http = Http::new(address, Some("secret".into()));
        assert_eq!(http.post("/a", &serde_json::json!({"x": 1})).unwrap()["ok"], 1);
        assert_eq!(http.get("/b").unwrap()["ok"], 1);
        let error = http.post("/c", &Value::Null).unwrap_err();
        assert!(error.contains("POST /c") && error.contains("401") && error.contains("No."), "{error}");
        let seen = server.join().unwrap();
        assert!(seen[0].contains("Authorization: Bearer secret") && seen[0].ends_with(r#"{"x":1}"#));
        assert!(seen[1].starts_with("GET /b HTTP/1.1"));
    }
}
