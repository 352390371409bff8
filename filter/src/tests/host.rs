//! A host that remembers: streams with headers, call-outs, shared data, metrics, and every call that was made.

use crate::host::{Host, HostError, HttpCall, Level, Metric, Shared};
use decision_core::time::Timestamp;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// A header map with repeats, in order.
pub(crate) type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// What the filter answered itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) details: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        find(&self.headers, name)
    }

    /// The body, as JSON.
    pub(crate) fn problem(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// One stream, as Envoy has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeStream {
    pub(crate) request: Headers,
    /// Instead of `request`, the bytes that the host hands over.
    pub(crate) raw: Option<Vec<u8>>,
    pub(crate) body: Vec<u8>,
    /// How often the body was replaced.
    pub(crate) body_writes: usize,
    pub(crate) response: Headers,
    /// The piece of the response's body that is here.
    pub(crate) response_body: Vec<u8>,
    pub(crate) trailers: Headers,
    pub(crate) properties: BTreeMap<String, Vec<u8>>,
    pub(crate) reply: Option<Reply>,
    pub(crate) resumed: bool,
}

/// A call-out that waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) token: u32,
    pub(crate) cluster: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout: Duration,
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        find(&self.headers, name)
    }
}

/// What came back from a call-out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

/// Shared by all virtual machines of one Envoy.
pub(crate) type SharedData = Rc<RefCell<BTreeMap<String, (Vec<u8>, u32)>>>;

/// A foreign function: from its argument to its answer.
pub(crate) type Verify = fn(&[u8]) -> Vec<u8>;

/// A host for one virtual machine.
#[derive(Debug)]
pub(crate) struct FakeHost {
    pub(crate) now: Cell<Timestamp>,
    /// How much time passes from one look at the clock to the next.
    pub(crate) pace: Cell<Duration>,
    pub(crate) streams: RefCell<BTreeMap<u32, FakeStream>>,
    /// The effective context.
    pub(crate) selected: Cell<u32>,
    /// Every call, by its name; of metrics and headers with theirs.
    pub(crate) calls: RefCell<Vec<String>>,
    pub(crate) logs: RefCell<Vec<(Level, String)>>,
    /// What was left for the access log.
    pub(crate) words: RefCell<Vec<(String, String)>>,
    pub(crate) call_outs: RefCell<Vec<Call>>,
    pub(crate) answer: RefCell<Answer>,
    /// Clusters that cannot be called.
    pub(crate) unreachable: RefCell<Vec<String>>,
    pub(crate) shared: SharedData,
    pub(crate) metrics: RefCell<BTreeMap<String, i64>>,
    /// How `verify_signature` answers; absent, as in an Envoy without it.
    pub(crate) verifies: Cell<Option<Verify>>,
    /// Names of shared queues, and how many messages each has. Absent: they are not allowed.
    pub(crate) queues: RefCell<Option<Vec<(String, usize)>>>,
    metric_names: RefCell<Vec<String>>,
    next_token: Cell<u32>,
}

/// The context that ticks and calls out.
pub(crate) const ROOT: u32 = 1;

pub(crate) fn find(headers: &Headers, name: &str) -> Option<String> {
    let (_, value) = headers.iter().find(|(known, _)| known == name.as_bytes())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

pub(crate) fn owned(headers: &[(&str, &[u8])]) -> Headers {
    headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
}

fn serialise(headers: &Headers) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let mut bytes = u32::try_from(headers.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(headers.iter().flat_map(|(name, value)| [length(name), length(value)].concat()));
    bytes.extend(headers.iter().flat_map(|(name, value)| [name, &b"\0"[..], value, b"\0"].concat()));
    bytes
}

impl FakeHost {
    pub(crate) fn new(now: Timestamp, shared: SharedData) -> Self {
        Self {
            now: Cell::new(now),
            pace: Cell::default(),
            streams: RefCell::default(),
            selected: Cell::new(ROOT),
            calls: RefCell::default(),
            logs: RefCell::default(),
            words: RefCell::default(),
            call_outs: RefCell::default(),
            answer: RefCell::default(),
            unreachable: RefCell::default(),
            shared,
            metrics: RefCell::default(),
            verifies: Cell::new(None),
            queues: RefCell::new(Some(Vec::new())),
            metric_names: RefCell::default(),
            next_token: Cell::new(1),
        }
    }

    pub(crate) fn pass(&self, span: Duration) {
        self.now.set(self.now.get().plus(span));
    }

    /// A copy of a stream.
    pub(crate) fn stream(&self, context: u32) -> FakeStream {
        self.streams.borrow()[&context].clone()
    }

    pub(crate) fn metric(&self, name: &str) -> i64 {
        self.metrics.borrow().get(name).copied().unwrap_or(0)
    }

    /// The calls since the last time this was asked.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        self.calls.take()
    }

    fn note(&self, call: impl Into<String>) {
        self.calls.borrow_mut().push(call.into());
    }

    fn with_stream<T>(&self, act: impl FnOnce(&mut FakeStream) -> T) -> Option<T> {
        self.streams.borrow_mut().get_mut(&self.selected.get()).map(act)
    }
}

fn set(headers: &mut Headers, name: &str, value: &[u8]) {
    headers.retain(|(known, _)| known != name.as_bytes());
    headers.push((name.into(), value.into()));
}

impl Host for FakeHost {
    fn now(&self) -> Timestamp {
        self.note("now");
        self.pass(self.pace.get());
        self.now.get()
    }

    fn log(&self, level: Level, message: &str) {
        self.note("log");
        self.logs.borrow_mut().push((level, message.into()));
    }

    fn request_headers(&self) -> Result<Vec<u8>, HostError> {
        self.note("request_headers");
        let read = |stream: &mut FakeStream| stream.raw.clone().unwrap_or_else(|| serialise(&stream.request));
        self.with_stream(read).ok_or(HostError::Refused)
    }

    fn add_request_header(&self, name: &str, value: &[u8]) {
        self.note(format!("add_request_header {name}"));
        self.with_stream(|stream| stream.request.push((name.as_bytes().to_vec(), value.to_vec())));
    }

    fn set_request_header(&self, name: &str, value: &[u8]) {
        self.note(format!("set_request_header {name}"));
        self.with_stream(|stream| set(&mut stream.request, name, value));
    }

    fn remove_request_header(&self, name: &str) {
        self.note(format!("remove_request_header {name}"));
        self.with_stream(|stream| stream.request.retain(|(known, _)| known != name.as_bytes()));
    }

    fn request_body(&self, start: usize, length: usize) -> Vec<u8> {
        self.note(format!("request_body {length}"));
        self.with_stream(|stream| stream.body.iter().skip(start).take(length).copied().collect()).unwrap_or_default()
    }

    fn set_request_body(&self, size: usize, body: &[u8]) -> Result<(), HostError> {
        self.note("set_request_body");
        let replace = |stream: &mut FakeStream| {
            assert_eq!(stream.body.len(), size, "the whole of what is buffered is replaced");
            stream.body = body.into();
            stream.body_writes += 1;
        };
        self.with_stream(replace).ok_or(HostError::Refused)
    }

    fn response_headers(&self) -> Result<Vec<u8>, HostError> {
        self.note("response_headers");
        self.with_stream(|stream| serialise(&stream.response)).ok_or(HostError::Refused)
    }

    fn response_status(&self) -> Option<u16> {
        self.note("response_status");
        self.with_stream(|stream| find(&stream.response, ":status")?.parse().ok())?
    }

    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        self.note(format!("response_header {name}"));
        self.with_stream(|stream| find(&stream.response, name).map(String::into_bytes))?
    }

    fn response_trailer(&self, name: &str) -> Option<Vec<u8>> {
        self.note(format!("response_trailer {name}"));
        self.with_stream(|stream| find(&stream.trailers, name).map(String::into_bytes))?
    }

    fn response_body(&self, size: usize) -> Vec<u8> {
        self.note("response_body");
        self.with_stream(|stream| stream.response_body.iter().take(size).copied().collect()).unwrap_or_default()
    }

    fn set_response_header(&self, name: &str, value: &[u8]) {
        self.note(format!("set_response_header {name}"));
        self.with_stream(|stream| set(&mut stream.response, name, value));
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.note(format!("property {}", path.join(".")));
        self.with_stream(|stream| stream.properties.get(&path.join(".")).cloned())?
    }

    fn leave_word(&self, name: &str, word: &str) {
        self.note(format!("leave_word {name}"));
        self.words.borrow_mut().push((name.to_owned(), word.to_owned()));
    }

    fn reply(&self, status: u16, details: &str, headers: &[(&str, &[u8])], body: &[u8]) -> Result<(), HostError> {
        self.note("reply");
        let reply = Reply { status, details: details.into(), headers: owned(headers), body: body.into() };
        let twice = self.with_stream(|stream| stream.resumed || stream.reply.replace(reply).is_some());
        assert_eq!(twice, Some(false), "a reply to nobody, or to a request that was answered or forwarded");
        Ok(())
    }

    fn resume_request(&self) -> Result<(), HostError> {
        self.note("resume_request");
        let twice = self.with_stream(|stream| std::mem::replace(&mut stream.resumed, true) || stream.reply.is_some());
        assert_eq!(twice, Some(false), "resumed nobody, twice, or after a reply");
        Ok(())
    }

    fn select(&self, context: u32) -> Result<(), HostError> {
        self.note("select");
        if context != ROOT && !self.streams.borrow().contains_key(&context) {
            return Err(HostError::Refused);
        }
        self.selected.set(context);
        Ok(())
    }

    fn register_queue(&self, name: &str) -> Result<u32, HostError> {
        self.note("register_queue");
        let mut queues = self.queues.borrow_mut();
        let queues = queues.as_mut().ok_or(HostError::Refused)?;
        queues.push((name.into(), 0));
        u32::try_from(queues.len() - 1).map_err(|_| HostError::Refused)
    }

    fn enqueue(&self, queue: u32) -> Result<(), HostError> {
        self.note("enqueue");
        let mut queues = self.queues.borrow_mut();
        queues.as_mut().ok_or(HostError::Refused)?[usize::try_from(queue).unwrap()].1 += 1;
        Ok(())
    }

    fn dequeue(&self, queue: u32) {
        self.note("dequeue");
        let mut queues = self.queues.borrow_mut();
        queues.as_mut().unwrap()[usize::try_from(queue).unwrap()].1 -= 1;
    }

    fn call_foreign(&self, function: &str, argument: &[u8]) -> Result<Option<Vec<u8>>, HostError> {
        self.note(format!("call_foreign {function}"));
        let verify = self.verifies.get().ok_or(HostError::Refused)?;
        Ok(Some(verify(argument)))
    }

    fn http_call(&self, call: &HttpCall<'_>) -> Result<u32, HostError> {
        self.note("http_call");
        assert_eq!(self.selected.get(), ROOT, "a call-out belongs to the root");
        if self.unreachable.borrow().iter().any(|cluster| cluster == call.cluster) {
            return Err(HostError::Refused);
        }
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        let body = call.body.unwrap_or_default().to_vec();
        self.call_outs.borrow_mut().push(Call {
            token,
            cluster: call.cluster.into(),
            headers: owned(call.headers),
            body,
            timeout: call.timeout,
        });
        Ok(token)
    }

    fn call_status(&self) -> Option<u16> {
        self.note("call_status");
        let answer = self.answer.borrow();
        assert!(!answer.headers.is_empty(), "the SDK panics when a failed call is asked for its headers");
        find(&answer.headers, ":status")?.parse().ok()
    }

    fn call_header(&self, name: &str) -> Option<Vec<u8>> {
        self.note("call_header");
        find(&self.answer.borrow().headers, name).map(String::into_bytes)
    }

    fn call_body(&self, length: usize) -> Vec<u8> {
        self.note("call_body");
        self.answer.borrow().body.iter().take(length).copied().collect()
    }

    fn shared(&self, key: &str) -> Shared {
        self.note("shared");
        match self.shared.borrow().get(key) {
            Some((value, cas)) => Shared { value: Some(value.clone()), cas: Some(*cas) },
            None => Shared::default(),
        }
    }

    /// As Envoy does it: the version is compared only if the key exists.
    fn set_shared(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), HostError> {
        self.note("set_shared");
        let mut shared = self.shared.borrow_mut();
        let known = shared.get(key).map(|(_, cas)| *cas);
        if known.is_some_and(|known| cas.is_some_and(|cas| cas != 0 && cas != known)) {
            return Err(HostError::CasMismatch);
        }
        shared.insert(key.into(), (value.into(), known.unwrap_or(0) + 1));
        Ok(())
    }

    fn define(&self, kind: Metric, name: &str) -> Option<u32> {
        self.note(format!("define {kind:?}"));
        let mut names = self.metric_names.borrow_mut();
        assert!(!names.iter().any(|known| known == name), "`{name}` is defined once");
        names.push(name.into());
        u32::try_from(names.len() - 1).ok()
    }

    fn increment(&self, metric: u32, by: i64) {
        let name = self.metric_names.borrow()[usize::try_from(metric).unwrap()].clone();
        self.note("increment");
        *self.metrics.borrow_mut().entry(name).or_default() += by;
    }

    fn record(&self, metric: u32, value: u64) {
        let name = self.metric_names.borrow()[usize::try_from(metric).unwrap()].clone();
        self.note("record");
        self.metrics.borrow_mut().insert(name, i64::try_from(value).unwrap());
    }
}
