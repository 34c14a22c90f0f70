//! Requests from JSON: one object, an array, or one object after another.

use std::io::{self, BufRead, BufReader};
use std::sync::{Arc, Mutex, PoisonError};

use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde::de::{self, DeserializeSeed, SeqAccess, Visitor};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::cmd::stdin;
use crate::failure::Failure;

/// Most JSON of one request: more than any message may have.
const REQUEST_LIMIT: usize = 32 << 20;

/// Where the JSON comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Stdin,
    Text(String),
}

impl Source {
    pub(crate) fn of(argument: Option<&str>, client_streams: bool) -> Self {
        match argument {
            Some("-") => Self::Stdin,
            Some(text) => Self::Text(text.to_owned()),
            None if client_streams => Self::Stdin,
            None => Self::Text("{}".to_owned()),
        }
    }
}

/// Reads one message.
pub(crate) fn one(desc: &MessageDescriptor, source: &Source) -> Result<DynamicMessage, Failure> {
    let text = match source {
        Source::Text(text) => text.clone().into_bytes(),
        Source::Stdin => stdin::read_all(REQUEST_LIMIT)?,
    };
    let mut json = serde_json::Deserializer::from_slice(&text);
    let message = read(desc, &mut json).and_then(|message| json.end().map(|()| message));
    message.map_err(|e| refused(desc, &e))
}

/// Messages as they are read, and the error that ends them before their time.
pub(crate) struct Messages {
    pub(crate) stream: std::pin::Pin<Box<dyn tokio_stream::Stream<Item = DynamicMessage> + Send>>,
    pub(crate) failed: oneshot::Receiver<Failure>,
}

/// Reads messages on a thread of their own, so that a stream can be fed by hand.
pub(crate) fn many(desc: &MessageDescriptor, source: Source) -> Result<Messages, Failure> {
    let (to, messages) = mpsc::channel(64);
    let desc = desc.clone();
    let read = move || match source {
        Source::Text(text) => feed(&desc, io::Cursor::new(text), &to),
        Source::Stdin => feed(&desc, BufReader::new(io::stdin()), &to),
    };
    mirror_kit::spawn_thread("input", read)
        .map_err(|e| Failure::bug(format!("no thread can be made: {e}")))?;
    let (broken, failed) = oneshot::channel();
    let broken = Arc::new(Mutex::new(Some(broken)));
    let stream = ReceiverStream::new(messages).map_while(move |item| match item {
        Ok(message) => Some(message),
        Err(failure) => {
            let sender = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
            sender.map(|s| s.send(failure));
            None
        }
    });
    Ok(Messages { stream: Box::pin(stream), failed })
}

type Sender = mpsc::Sender<Result<DynamicMessage, Failure>>;

fn feed(desc: &MessageDescriptor, mut from: impl BufRead, to: &Sender) {
    match opens_with_bracket(&mut from) {
        Ok(true) => {
            let mut json = serde_json::Deserializer::from_reader(from);
            let seed = Elements { desc, to };
            let done = serde::Deserializer::deserialize_seq(&mut json, seed).and_then(|()| json.end());
            end(desc, done, to);
        }
        Ok(false) => {
            let mut json = serde_json::Deserializer::from_reader(from);
            let done = loop {
                match json.end() {
                    Ok(()) => break Ok(()),
                    // There is more, which is what is hoped for.
                    Err(e) if e.is_syntax() => {}
                    Err(e) => break Err(e),
                }
                match read(desc, &mut json) {
                    Ok(message) => {
                        if to.blocking_send(Ok(message)).is_err() {
                            return;
                        }
                    }
                    Err(e) => break Err(e),
                }
            };
            end(desc, done, to);
        }
        Err(e) => end(desc, Err(serde_json::Error::io(e)), to),
    }
}

fn end(desc: &MessageDescriptor, done: serde_json::Result<()>, to: &Sender) {
    if let Err(e) = done {
        // A receiver that is gone has its own failure to report.
        let _ = to.blocking_send(Err(refused(desc, &e)));
    }
}

/// Skips white space and returns whether an array begins.
fn opens_with_bracket(from: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let (skip, found) = {
            let bytes = from.fill_buf()?;
            if bytes.is_empty() {
                return Ok(false);
            }
            let skip = bytes.iter().take_while(|b| b.is_ascii_whitespace()).count();
            (skip, bytes.get(skip).copied())
        };
        from.consume(skip);
        if let Some(byte) = found {
            return Ok(byte == b'[');
        }
    }
}

fn read<'de, R: serde_json::de::Read<'de>>(
    desc: &MessageDescriptor,
    json: &mut serde_json::Deserializer<R>,
) -> serde_json::Result<DynamicMessage> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(desc.clone(), json, &options)
}

/// Sends each element of an array as it is read.
struct Elements<'a> {
    desc: &'a MessageDescriptor,
    to: &'a Sender,
}

struct Element<'a>(&'a MessageDescriptor);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = DynamicMessage;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<DynamicMessage, D::Error> {
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        DynamicMessage::deserialize_with_options(self.0.clone(), json, &options)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an array of {}", self.desc.name())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(message) = array.next_element_seed(Element(self.desc))? {
            if self.to.blocking_send(Ok(message)).is_err() {
                return Err(de::Error::custom("the call has ended"));
            }
        }
        Ok(())
    }
}

fn refused(desc: &MessageDescriptor, error: &serde_json::Error) -> Failure {
    let fields: Vec<String> = desc.fields().map(|f| format!("{} ({})", f.name(), type_of(&f))).collect();
    let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
    Failure::input(format!("the request is no {}: {error}", desc.name()))
        .hint(format!("fields of {}: {fields}", desc.name()))
}

fn type_of(field: &prost_reflect::FieldDescriptor) -> String {
    let kind = format!("{:?}", field.kind());
    let name = match field.kind() {
        prost_reflect::Kind::Message(m) => m.name().to_owned(),
        prost_reflect::Kind::Enum(e) => {
            e.values().skip(1).map(|v| v.name().to_owned()).collect::<Vec<_>>().join("|")
        }
        prost_reflect::Kind::Bytes => "base64".to_owned(),
        _ => kind.to_lowercase(),
    };
    if field.is_list() { format!("[{name}]") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::call::method::pool;

    fn desc(name: &str) -> MessageDescriptor {
        pool().unwrap().get_message_by_name(&format!("mirror.bus.v1.{name}")).unwrap()
    }

    fn why(failure: Failure) -> String {
        let Failure::Error(report) = failure else { panic!("an error") };
        format!("{} / {}", report.message, report.hints.join(" / "))
    }

    #[test]
    fn a_wrong_request_names_the_field_and_the_place() {
        let check = |json: &str, part: &str| {
            let text = why(one(&desc("GetEventRequest"), &Source::Text(json.into())).unwrap_err());
            assert!(text.contains(part), "{part} in {text}");
        };
        check(r#"{"sequence": 1}"#, "'sequence'");
        check(r#"{"sequence": 1}"#, "fields of GetEventRequest: seq (uint64), id (string)");
        check(r#"{"seq": -1}"#, "line 1 column");
        check("", "EOF");
        check("{} {}", "trailing characters");
        check("[]", "GetEventRequest");
    }

    #[tokio::test]
    async fn a_stream_is_an_array_or_objects_after_another() {
        for (json, count, error) in [
            (r#"[{"events":[]},{"events":[]}]"#, 2, None),
            ("{\"events\":[]}\n{\"events\":[]}{}\n", 3, None),
            (" \n", 0, None),
            ("[]", 0, None),
            ("{\"events\":[]}\n{\"evnts\":[]}\n", 1, Some("'evnts'")),
            (r#"[{"events":[]}"#, 1, Some("EOF")),
            (r#"[{}] {}"#, 1, Some("trailing")),
            ("{} x", 1, Some("line 1 column 4")),
        ] {
            let mut messages = many(&desc("AppendStreamRequest"), Source::Text(json.into())).unwrap();
            let mut seen = 0;
            while messages.stream.next().await.is_some() {
                seen += 1;
            }
            assert_eq!(seen, count, "{json}");
            let failure = messages.failed.try_recv().ok().map(why);
            match error {
                Some(part) => {
                    assert!(failure.clone().unwrap_or_default().contains(part), "{json}: {failure:?}")
                }
                None => assert_eq!(failure, None, "{json}"),
            }
        }
    }
}
