//! An ntfy server of a few lines: it keeps what it was asked, and answers as it was told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How the server answers one call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    Status(u16),
    /// 429, with the seconds after which to come again.
    Busy(u32),
    /// Takes the call and hangs up.
    Hangup,
}

/// A call that was taken.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: serde_json::Value,
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    answers: VecDeque<Answer>,
    always: Option<Answer>,
}

pub(crate) struct FakeNtfy {
    port: u16,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for FakeNtfy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeNtfy {
    #[expect(clippy::disallowed_methods, reason = "it plays a server of the outside world")]
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, &shared).await;
            }
        });
        Self { port, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets how the next calls are answered; the others get 200.
    pub(crate) fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state.lock().unwrap().answers.extend(answers);
    }

    /// Sets how all calls are answered.
    pub(crate) fn always(&self, answer: Answer) {
        self.state.lock().unwrap().always = Some(answer);
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.lock().unwrap().calls.clone()
    }

    /// Returns the text of each card that was published.
    pub(crate) fn titles(&self) -> Vec<String> {
        let title = |call: &Call| {
            let text =
                if call.body["title"].is_string() { &call.body["title"] } else { &call.body["message"] };
            text.as_str().map(str::to_owned)
        };
        self.calls().iter().filter_map(title).collect()
    }

    pub(crate) async fn wait_for(&self, count: usize) {
        mirror_testkit::wait(&format!("the server has {count} calls"), async || {
            let calls = self.calls();
            if calls.len() >= count { Ok(()) } else { Err(format!("{calls:?}")) }
        })
        .await;
    }
}

async fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
        return;
    }
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.unwrap();
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let answer = {
        let mut state = state.lock().unwrap();
        state.calls.push(Call { line: line.trim_end().to_owned(), headers, body });
        state.always.or_else(|| state.answers.pop_front()).unwrap_or(Answer::Status(200))
    };
    let (status, more) = match answer {
        Answer::Hangup => return,
        Answer::Status(status) => (status, "location: http://127.0.0.1:1/elsewhere\r\n".to_owned()),
        Answer::Busy(seconds) => (429, format!("retry-after: {seconds}\r\n")),
    };
    let text = format!("HTTP/1.1 {status} X\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n");
    // A client that went away does not want the answer.
    let _ = stream.get_mut().write_all(text.as_bytes()).await;
}
