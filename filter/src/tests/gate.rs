//! One virtual machine behind the fake host, driven as Envoy drives it, and a control plane that answers its calls.

use super::host::{Answer, Call, FakeHost, FakeStream, Headers, ROOT, Reply, SharedData, owned};
use super::tokens;
use crate::contact::About;
use crate::exchange::Exchange;
use crate::pipeline::{self, Step, Wake};
use crate::response;
use crate::root::{CallResult, dispatch, hold, tick, wake_all, woken};
use crate::settings::Settings;
use crate::vm::{Vm, Waiting};
use authn::Mark;
use decision_core::time::Timestamp;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use wire::audit::{AuditRecord, Mentions};
use wire::bundle::{Bundle, BundleVersion, IssuerKeys, KeyMaterial, KeysKnown};
use wire::policy::PolicyDocument;
use wire::pseudonym::PseudonymKey;
use wire::revocation::{RevocationChange, RevocationPage};
use wire::sync::{AccountGrant, RecordBatch, SyncAnswer, SyncRequest};

/// 2026-01-15T12:00:30Z.
pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_768_478_430);
/// The period of the root's ticks.
const TICK: Duration = Duration::from_millis(20);

/// The default policy, in which every issuer signs by HS256.
pub(crate) fn document() -> PolicyDocument {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut files = BTreeMap::new();
    for folder in [root.clone(), root.join("routes")] {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        for file in entries.filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
            let name = file.strip_prefix(&root).unwrap().display().to_string();
            files.insert(name, std::fs::read_to_string(&file).unwrap());
        }
    }
    let mut document = wire::sources::read(&files).unwrap();
    for key in document.issuers.iter_mut().flat_map(|issuer| &mut issuer.keys) {
        key.algorithm = "HS256".into();
    }
    document
}

pub(crate) fn version(activation: u64) -> BundleVersion {
    BundleVersion { database_id: [7; 16], activation, revision: activation + 100, key_set: 1, shadow: 0 }
}

/// The key of the hashes in records.
pub(crate) fn pseudonym_key() -> PseudonymKey {
    PseudonymKey::new(b"0123456789abcdef0123456789abcdef".to_vec()).unwrap()
}

/// A bundle of that document.
pub(crate) fn image(document: &PolicyDocument, version: BundleVersion) -> Vec<u8> {
    let keys = document.issuers.iter().map(|issuer| IssuerKeys {
        issuer: issuer.name.clone(),
        keys: issuer
            .keys
            .iter()
            .map(|key| KeyMaterial { kid: Some(key.kid.clone()), algorithm: key.algorithm.clone(), material: tokens::secret(&key.kid) })
            .collect(),
        known: KeysKnown::Always,
    });
    let registration_key_hashes = vec![tokens::registration_key_hash()];
    let (policy, keys) = (document.clone(), keys.collect());
    let pseudonym_key = policy.audit.as_ref().and_then(|audit| audit.hash_key.as_ref()).map(|_| pseudonym_key());
    Bundle { version, policy, keys, registration_key_hashes, pseudonym_key, rules: None, shadow: None }.encode().unwrap()
}

/// A page of revocations that follows `after`.
pub(crate) fn page(reset: bool, after: u64, marks: &[(Mark, i64)]) -> RevocationPage {
    let change = |(number, (mark, bound)): (u64, &(Mark, i64))| RevocationChange { number, mark: mark.0, bound: *bound, lifted: false };
    let changes: Vec<_> = (after + 1..).zip(marks).map(change).collect();
    let through = after + u64::try_from(changes.len()).unwrap();
    RevocationPage { database_id: [7; 16], reset, through, more: false, total: u32::try_from(marks.len()).unwrap(), changes, caps: 0 }
}

/// A request: what a client sends.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let headers =
            owned(&[(":method", method.as_bytes()), (":path", path.as_bytes()), (":authority", b"Plant.Example"), (":scheme", b"https")]);
        Self { headers, body: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().into()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.with("authorization", format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().into();
        self
    }
}

/// A stream under way.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) context: u32,
    pub(crate) exchange: Rc<RefCell<Exchange>>,
    pub(crate) step: Step,
}

/// One virtual machine.
pub(crate) struct Gate {
    pub(crate) host: FakeHost,
    pub(crate) vm: Rc<RefCell<Vm>>,
    pub(crate) settings: Rc<Settings>,
    next_context: u32,
}

impl Gate {
    /// Without a bundle.
    pub(crate) fn cold(gateway: &str, shared: SharedData) -> Self {
        let settings = format!(r#"{{"gateway":"{gateway}","poll_cluster":"control_plane_poll","upstream_headers":"full"}}"#);
        let settings = Rc::new(Settings::parse(settings.as_bytes()).unwrap().0);
        Self { host: FakeHost::new(NOW, shared), vm: Rc::new(RefCell::new(Vm::new())), settings, next_context: 10 }
    }

    /// With the default policy in force.
    pub(crate) fn new(gateway: &str) -> Self {
        Self::with(gateway, |_| {})
    }

    /// With a changed policy in force.
    pub(crate) fn with(gateway: &str, change: impl FnOnce(&mut PolicyDocument)) -> Self {
        let gate = Self::cold(gateway, SharedData::default());
        let mut document = document();
        change(&mut document);
        gate.vm.borrow_mut().activate(&gate.host, &image(&document, version(1))).unwrap();
        gate.know_revocations(&[]);
        gate
    }

    /// The default policy, activated again.
    pub(crate) fn activate(&self, activation: u64) {
        self.vm.borrow_mut().activate(&self.host, &image(&document(), version(activation))).unwrap();
    }

    /// Something became known: whoever waits for it is judged.
    pub(crate) fn learn(&self) {
        wake_all(&self.vm, &self.host, (ROOT, &self.settings), Wake::Learned, self.host.now.get());
    }

    /// Answers the call for revocations that waits.
    pub(crate) fn serve_revocations(&self, page: &RevocationPage) -> Call {
        let call = self.take_call("/data-plane/v1/revocations").unwrap();
        self.answer(&call, &[(":status", b"200")], wire::frame::encode(page).unwrap());
        call
    }

    /// What is revoked is known here: these, with the numbers from 1.
    pub(crate) fn know_revocations(&self, marks: &[(Mark, i64)]) {
        let mut vm = self.vm.borrow_mut();
        let page = page(true, 0, marks);
        vm.revoked.take(&page).unwrap();
        for about in [About::Keys, About::Revocations] {
            vm.contact.heard(about, &self.host, self.host.now.get());
        }
    }

    /// These are revoked too, as the machine that polls is told.
    pub(crate) fn revoke(&self, marks: &[(Mark, i64)]) {
        let mut vm = self.vm.borrow_mut();
        let page = page(false, vm.revoked.number(), marks);
        vm.revoked.take(&page).unwrap();
    }

    /// The request's headers arrive.
    pub(crate) fn begin(&mut self, request: &Request) -> Stream {
        let stream = FakeStream { request: request.headers.clone(), ..FakeStream::default() };
        self.begin_stream(stream, request.body.is_empty())
    }

    pub(crate) fn begin_stream(&mut self, stream: FakeStream, end_of_stream: bool) -> Stream {
        let context = self.next_context;
        self.next_context += 1;
        self.host.streams.borrow_mut().insert(context, stream);
        self.host.selected.set(context);
        let exchange = Rc::new(RefCell::new(Exchange::new(Rc::clone(&self.settings))));
        let step = pipeline::begin(&mut exchange.borrow_mut(), &mut self.vm.borrow_mut(), &self.host, end_of_stream);
        self.follow(Stream { context, exchange, step })
    }

    fn follow(&mut self, stream: Stream) -> Stream {
        if stream.step == Step::Held {
            let exchange = Rc::clone(&stream.exchange);
            let held = Waiting { context: stream.context, exchange };
            hold(&mut self.vm.borrow_mut(), &self.host, held, self.host.now.get());
        }
        self.host.selected.set(ROOT);
        stream
    }

    /// The body arrives; Envoy hands over all that is buffered. None: keep holding.
    pub(crate) fn body(&mut self, stream: &Stream, so_far: &[u8], end_of_stream: bool) -> Option<Step> {
        self.host.selected.set(stream.context);
        self.host.streams.borrow_mut().get_mut(&stream.context).unwrap().body = so_far.into();
        let step = pipeline::body(&mut stream.exchange.borrow_mut(), &mut self.vm.borrow_mut(), &self.host, so_far.len(), end_of_stream);
        self.host.selected.set(ROOT);
        step.map(|step| self.follow(Stream { step, ..stream.clone() }).step)
    }

    /// Trailers end the request: Envoy hands over nothing more of the body.
    pub(crate) fn trailers(&mut self, stream: &Stream) -> Option<Step> {
        self.host.selected.set(stream.context);
        let step = pipeline::body(&mut stream.exchange.borrow_mut(), &mut self.vm.borrow_mut(), &self.host, 0, true);
        self.host.selected.set(ROOT);
        step.map(|step| self.follow(Stream { step, ..stream.clone() }).step)
    }

    /// The body as the backend gets it, and how often it was replaced.
    pub(crate) fn forwarded_body(&self, stream: &Stream) -> (String, usize) {
        let seen = self.host.stream(stream.context);
        (String::from_utf8_lossy(&seen.body).into_owned(), seen.body_writes)
    }

    /// Headers and body in one go.
    pub(crate) fn send(&mut self, request: &Request) -> Stream {
        let mut stream = self.begin(request);
        if !request.body.is_empty()
            && let Some(step) = self.body(&stream, &request.body, true)
        {
            stream.step = step;
        }
        stream
    }

    /// A request that the filter answers at once.
    pub(crate) fn refused(&mut self, request: &Request) -> Reply {
        let stream = self.send(request);
        assert_eq!(stream.step, Step::Answered);
        self.reply(&stream).unwrap()
    }

    pub(crate) fn reply(&self, stream: &Stream) -> Option<Reply> {
        self.host.stream(stream.context).reply
    }

    /// The request as the backend gets it, if it does.
    pub(crate) fn forwarded(&self, stream: &Stream) -> Option<Headers> {
        let seen = self.host.stream(stream.context);
        (stream.step == Step::Forward || seen.resumed).then_some(seen.request)
    }

    /// The response's headers arrive.
    pub(crate) fn respond(&self, stream: &Stream, status: u16) {
        self.respond_with(stream, status, &[]);
    }

    /// The same, with these headers.
    pub(crate) fn respond_with(&self, stream: &Stream, status: u16, more: &[(&str, &str)]) {
        self.host.selected.set(stream.context);
        let mut headers = owned(&[(":status", status.to_string().as_bytes())]);
        headers.extend(more.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
        self.host.streams.borrow_mut().get_mut(&stream.context).unwrap().response = headers;
        response::headers(&mut stream.exchange.borrow_mut(), &self.vm.borrow(), &self.host, false);
        self.host.selected.set(ROOT);
    }

    /// A piece of the response's body goes by.
    pub(crate) fn response_body(&self, stream: &Stream, piece: &[u8], end_of_stream: bool) {
        self.host.selected.set(stream.context);
        self.host.streams.borrow_mut().get_mut(&stream.context).unwrap().response_body = piece.into();
        response::body(&mut stream.exchange.borrow_mut(), &self.host, piece.len(), end_of_stream);
        self.host.selected.set(ROOT);
    }

    /// Trailers end the response.
    pub(crate) fn response_trailers(&self, stream: &Stream, trailers: &[(&str, &str)]) {
        self.host.selected.set(stream.context);
        let headers = trailers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        self.host.streams.borrow_mut().get_mut(&stream.context).unwrap().trailers = headers;
        response::trailers(&mut stream.exchange.borrow_mut(), &self.host);
        self.host.selected.set(ROOT);
    }

    /// The stream has ended; its context is gone.
    pub(crate) fn finish(&self, stream: &Stream) {
        self.host.selected.set(stream.context);
        pipeline::finish(&mut stream.exchange.borrow_mut(), &mut self.vm.borrow_mut(), &self.host);
        self.host.selected.set(ROOT);
        self.host.streams.borrow_mut().remove(&stream.context);
    }

    /// A backend's good answer, to its end.
    pub(crate) fn complete(&self, stream: &Stream) {
        self.respond(stream, 200);
        self.finish(stream);
    }

    /// As the root does it.
    pub(crate) fn tick(&self) {
        let now = self.host.now.get();
        let why = tick(&mut self.vm.borrow_mut(), &self.host, &self.settings, now);
        wake_all(&self.vm, &self.host, (ROOT, &self.settings), why, now);
    }

    /// Ticks for so long.
    pub(crate) fn run(&self, span: Duration) {
        let end = self.host.now.get().plus(span);
        while self.host.now.get() < end {
            self.host.pass(TICK);
            self.tick();
        }
    }

    /// Ticks once, and makes a sync call if one is due.
    pub(crate) fn sync_call(&self) -> Option<(Call, SyncRequest)> {
        self.host.pass(TICK);
        self.tick();
        self.taken_call()
    }

    /// The sync call that was made.
    pub(crate) fn taken_call(&self) -> Option<(Call, SyncRequest)> {
        self.take_call("/data-plane/v1/sync").map(|call| {
            let request = wire::frame::decode(&call.body).unwrap();
            (call, request)
        })
    }

    /// As the root does it when a stream rings.
    pub(crate) fn woken(&self) {
        woken(&mut self.vm.borrow_mut(), &self.host, &self.settings, self.host.now.get());
    }

    pub(crate) fn take_call(&self, path: &str) -> Option<Call> {
        let mut calls = self.host.call_outs.borrow_mut();
        let is_to = |call: &Call| call.header(":path").is_some_and(|target| target.split('?').next() == Some(path));
        let place = calls.iter().position(is_to)?;
        Some(calls.remove(place))
    }

    /// A call-out is answered. Without headers: it failed without a response.
    pub(crate) fn answer(&self, call: &Call, headers: &[(&str, &[u8])], body: Vec<u8>) {
        let now = self.host.now.get();
        let result = CallResult { header_count: headers.len(), body_size: body.len() };
        self.host.answer.replace(Answer { headers: owned(headers), body });
        let why = dispatch(&mut self.vm.borrow_mut(), &self.host, &self.settings, call.token, result, now);
        wake_all(&self.vm, &self.host, (ROOT, &self.settings), why, now);
    }

    pub(crate) fn answer_sync(&self, call: &Call, answer: &SyncAnswer) {
        self.answer(call, &[(":status", b"200")], wire::frame::encode(answer).unwrap());
    }

    /// The next sync call, answered by a control plane that grants all; `change` may make it another.
    pub(crate) fn sync(&self, change: impl FnOnce(&SyncRequest, &mut SyncAnswer)) -> SyncRequest {
        let (call, request) = self.sync_call().unwrap();
        let mut answer = grant_all(&request);
        change(&request, &mut answer);
        self.answer_sync(&call, &answer);
        request
    }

    /// Leases for this request's accounts.
    pub(crate) fn warm(&mut self, request: &Request) {
        let stream = self.send(request);
        assert_eq!(stream.step, Step::Held);
        self.sync(|_, _| {});
        assert!(self.forwarded(&stream).is_some());
        self.complete(&stream);
        self.run(Duration::from_millis(1_000));
        while self.sync_call_and_grant() {}
        self.host.take_calls();
    }

    fn sync_call_and_grant(&self) -> bool {
        let Some(call) = self.take_call("/data-plane/v1/sync") else { return false };
        let request = wire::frame::decode(&call.body).unwrap();
        self.answer_sync(&call, &grant_all(&request));
        true
    }

    /// Units that open requests hold, as far as the next report tells: of accounts that changed since the last one.
    pub(crate) fn held(&self) -> i64 {
        let mut held = 0;
        self.vm.borrow_mut().leases.reports(self.host.now.get(), usize::MAX, |report| held += report.held.get());
        held
    }

    /// What requests wait for, by the next report.
    pub(crate) fn awaited(&self) -> i64 {
        let mut awaited = 0;
        let mut vm = self.vm.borrow_mut();
        vm.leases.reports(self.host.now.get(), usize::MAX, |report| awaited += report.minimum.minus(report.used).minus(report.held).get());
        awaited
    }

    /// The last record. Those before it are forgotten.
    pub(crate) fn last_record(&self) -> serde_json::Value {
        let mut last = None;
        let queue = &mut self.vm.borrow_mut().records;
        while let Some(batch) = queue.next_batch() {
            last = records(&batch).pop();
            queue.stored(batch.first_sequence);
        }
        last.unwrap()
    }

    /// All requests have ended: a lease in which something is still held would never be given back.
    pub(crate) fn assert_nothing_is_left(&self) {
        for _ in 0..600 {
            self.run(TICK);
            self.sync_call_and_grant();
        }
        let vm = self.vm.borrow();
        assert!(!vm.leases.holds_leases(), "something is held for ever");
        assert!(vm.records.awaits_nothing(), "an intent is waited for by nobody");
        assert!(vm.waiting.is_empty() && vm.asks.is_empty() && vm.answers.is_empty() && vm.undos.is_empty() && vm.records.is_empty());
    }
}

/// Grants what is wanted, without end.
pub(crate) fn grant_all(request: &SyncRequest) -> SyncAnswer {
    let grant = |report: &wire::sync::AccountReport| AccountGrant {
        budget: report.budget.clone(),
        scope: report.scope.clone(),
        window_start: report.window_start,
        generation: report.generation,
        granted: if report.close { 0 } else { report.target.max(report.minimum) },
        cap: 1 << 50,
        settled: report.used,
        known: true,
        overriding: None,
    };
    SyncAnswer {
        call: request.call,
        accounts: request.accounts.iter().map(grant).collect(),
        recalls: vec![],
        approvals: vec![],
        records_stored: request.records.as_ref().map(|batch| batch.first_sequence),
    }
}

/// The records of a batch, in a form that tests can look into.
pub(crate) fn records(batch: &RecordBatch) -> Vec<serde_json::Value> {
    let (mut rest, mut records, mut mentions) = (&batch.bytes[..], Vec::new(), Mentions::default());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (record, after) = after.split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
        let mut record: AuditRecord<'_> = postcard::from_bytes(record).unwrap();
        mentions.resolve(&mut record).unwrap();
        let mut value = serde_json::to_value(&record).unwrap();
        if let Some(user) = value["user"].get_mut("New").map(serde_json::Value::take) {
            value["user"] = user;
        }
        for charge in value["charges"].as_array_mut().unwrap() {
            let (account, amount) = (charge["account"]["New"].take(), charge["amount"].take());
            let overrun = charge["overrun"].take();
            *charge = serde_json::json!({ "budget": account["budget"], "scope": account["scope"], "amount": amount, "overrun": overrun });
        }
        records.push(value);
        rest = after;
    }
    assert_eq!(records.len(), usize::try_from(batch.count).unwrap());
    records
}
