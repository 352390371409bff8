//! Every call to the host, in one place. Bytes in, bytes out: the rest of the crate compiles and is tested natively.

use decision_core::time::Timestamp;
use std::time::Duration;

/// Why a host call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    /// The host answered with another status than success.
    #[error("the host refused the call")]
    Refused,
    /// Another worker changed the value meanwhile.
    #[error("the shared value changed meanwhile")]
    CasMismatch,
}

/// The kinds of metric that Envoy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Counter,
    Gauge,
}

/// How serious a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Info,
    Warn,
    Error,
}

/// A value in shared data, and what has to be named to change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) cas: Option<u32>,
}

/// What the filter asks of Envoy. The stream calls act on the effective context.
pub(crate) trait Host {
    fn now(&self) -> Timestamp;
    fn log(&self, level: Level, message: &str);

    fn request_headers(&self) -> Result<Vec<u8>, HostError>;
    /// Appends a header that is not there: one that is would be repeated.
    fn add_request_header(&self, name: &str, value: &[u8]);
    fn set_request_header(&self, name: &str, value: &[u8]);
    fn remove_request_header(&self, name: &str);
    /// A piece of what is buffered of the request's body.
    fn request_body(&self, start: usize, length: usize) -> Vec<u8>;
    /// Puts `body` in the place of the `size` bytes that are buffered of the request's body.
    fn set_request_body(&self, size: usize, body: &[u8]) -> Result<(), HostError>;
    /// All headers of the response, as [`Self::request_headers`] has them.
    fn response_headers(&self) -> Result<Vec<u8>, HostError>;
    fn response_status(&self) -> Option<u16>;
    fn response_header(&self, name: &str) -> Option<Vec<u8>>;
    fn response_trailer(&self, name: &str) -> Option<Vec<u8>>;
    /// The piece of the response's body that is here: so many bytes.
    fn response_body(&self, size: usize) -> Vec<u8>;
    fn set_response_header(&self, name: &str, value: &[u8]);
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;
    /// Leaves a word with the stream, for the access log: `%FILTER_STATE(wasm.<name>:PLAIN)%`.
    fn leave_word(&self, name: &str, word: &str);
    fn reply(&self, status: u16, details: &str, headers: &[(&str, &[u8])], body: &[u8]) -> Result<(), HostError>;
    fn resume_request(&self) -> Result<(), HostError>;
    fn select(&self, context: u32) -> Result<(), HostError>;
    /// The running root is woken by what comes into the shared queue of this name.
    fn register_queue(&self, name: &str) -> Result<u32, HostError>;
    /// An empty message.
    fn enqueue(&self, queue: u32) -> Result<(), HostError>;
    /// Drops one message.
    fn dequeue(&self, queue: u32);

    fn call_foreign(&self, function: &str, argument: &[u8]) -> Result<Option<Vec<u8>>, HostError>;
    fn http_call(&self, call: &HttpCall<'_>) -> Result<u32, HostError>;
    fn call_status(&self) -> Option<u16>;
    fn call_header(&self, name: &str) -> Option<Vec<u8>>;
    fn call_body(&self, length: usize) -> Vec<u8>;
    fn shared(&self, key: &str) -> Shared;
    fn set_shared(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), HostError>;

    fn define(&self, kind: Metric, name: &str) -> Option<u32>;
    fn increment(&self, metric: u32, by: i64);
    fn record(&self, metric: u32, value: u64);
}

/// A call to a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpCall<'c> {
    pub(crate) cluster: &'c str,
    pub(crate) headers: &'c [(&'c str, &'c [u8])],
    pub(crate) body: Option<&'c [u8]>,
    pub(crate) timeout: Duration,
}

#[cfg(target_arch = "wasm32")]
pub(crate) use envoy::Envoy;

#[cfg(target_arch = "wasm32")]
mod envoy {
    use super::{Host, HostError, HttpCall, Level, Metric, Shared};
    use decision_core::time::Timestamp;
    use proxy_wasm::hostcalls as abi;
    use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType, Status};

    /// The real host.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Envoy;

    // The statuses are declared as `u32`, not as the crate's enum: a value that the enum does not list would be
    // undefined behaviour there.
    #[expect(unsafe_code, reason = "calls of the ABI that the SDK does not offer as they are")]
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
        fn proxy_register_shared_queue(name: *const u8, name_size: usize, queue: *mut u32) -> u32;
        fn proxy_enqueue_shared_queue(queue: u32, message: *const u8, message_size: usize) -> u32;
        fn proxy_dequeue_shared_queue(queue: u32, data: *mut *mut u8, size: *mut usize) -> u32;
        fn proxy_send_local_response(
            status: u32,
            details: *const u8,
            details_size: usize,
            body: *const u8,
            body_size: usize,
            headers: *const u8,
            headers_size: usize,
            grpc_status: i32,
        ) -> u32;
    }

    const REQUEST_HEADERS: u32 = 0;
    const RESPONSE_HEADERS: u32 = 2;

    fn refused(status: Status) -> HostError {
        if status == Status::CasMismatch { HostError::CasMismatch } else { HostError::Refused }
    }

    /// A header map as the ABI wants it: count, length pairs, strings each followed by NUL.
    fn serialise(headers: &[(&str, &[u8])]) -> Vec<u8> {
        let size = |length: usize| u32::try_from(length).unwrap_or(0).to_le_bytes();
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(size(headers.len()));
        for (name, value) in headers {
            bytes.extend(size(name.len()));
            bytes.extend(size(value.len()));
        }
        for (name, value) in headers {
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend(*value);
            bytes.push(0);
        }
        bytes
    }

    /// A whole header map, as the host serialises it.
    fn header_block(map: u32) -> Result<Vec<u8>, HostError> {
        let mut data = std::ptr::null_mut();
        let mut size = 0;
        // SAFETY: both pointers are valid for writes for the duration of the call.
        #[expect(unsafe_code, reason = "the SDK's getter allocates twice per header and hides repeats' order")]
        let status = unsafe { proxy_get_header_map_pairs(map, &raw mut data, &raw mut size) };
        if status != 0 {
            return Err(HostError::Refused);
        }
        if data.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: on success the host has allocated exactly `size` bytes through `proxy_on_memory_allocate`, which
        // the SDK implements as a `Vec<u8>` of that capacity, filled them, and given them to us.
        #[expect(unsafe_code, reason = "takes ownership of the host's buffer, as the SDK does")]
        Ok(unsafe { Vec::from_raw_parts(data, size, size) })
    }

    impl Host for Envoy {
        fn now(&self) -> Timestamp {
            let since = abi::get_current_time().ok().and_then(|now| now.duration_since(std::time::UNIX_EPOCH).ok());
            Timestamp::from_micros(since.and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or(0))
        }

        fn log(&self, level: Level, message: &str) {
            let level = match level {
                Level::Info => LogLevel::Info,
                Level::Warn => LogLevel::Warn,
                Level::Error => LogLevel::Error,
            };
            // A line that Envoy does not take is lost; there is nowhere else to write it.
            abi::log(level, message).unwrap_or(());
        }

        fn request_headers(&self) -> Result<Vec<u8>, HostError> {
            header_block(REQUEST_HEADERS)
        }

        fn add_request_header(&self, name: &str, value: &[u8]) {
            abi::add_map_value_bytes(MapType::HttpRequestHeaders, name, value).unwrap_or(());
        }

        fn set_request_header(&self, name: &str, value: &[u8]) {
            abi::set_map_value_bytes(MapType::HttpRequestHeaders, name, Some(value)).unwrap_or(());
        }

        fn remove_request_header(&self, name: &str) {
            abi::remove_map_value(MapType::HttpRequestHeaders, name).unwrap_or(());
        }

        fn request_body(&self, start: usize, length: usize) -> Vec<u8> {
            if length == 0 {
                return Vec::new();
            }
            abi::get_buffer(BufferType::HttpRequestBody, start, length).ok().flatten().unwrap_or_default()
        }

        fn set_request_body(&self, size: usize, body: &[u8]) -> Result<(), HostError> {
            abi::set_buffer(BufferType::HttpRequestBody, 0, size, body).map_err(refused)
        }

        fn response_headers(&self) -> Result<Vec<u8>, HostError> {
            header_block(RESPONSE_HEADERS)
        }

        fn response_status(&self) -> Option<u16> {
            let value = abi::get_map_value_bytes(MapType::HttpResponseHeaders, ":status").ok().flatten()?;
            std::str::from_utf8(&value).ok()?.parse().ok()
        }

        fn response_header(&self, name: &str) -> Option<Vec<u8>> {
            abi::get_map_value_bytes(MapType::HttpResponseHeaders, name).ok().flatten()
        }

        fn response_trailer(&self, name: &str) -> Option<Vec<u8>> {
            abi::get_map_value_bytes(MapType::HttpResponseTrailers, name).ok().flatten()
        }

        fn response_body(&self, size: usize) -> Vec<u8> {
            abi::get_buffer(BufferType::HttpResponseBody, 0, size).ok().flatten().unwrap_or_default()
        }

        fn set_response_header(&self, name: &str, value: &[u8]) {
            abi::set_map_value_bytes(MapType::HttpResponseHeaders, name, Some(value)).unwrap_or(());
        }

        fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
            abi::get_property(path.to_vec()).ok().flatten()
        }

        fn leave_word(&self, name: &str, word: &str) {
            abi::set_property(vec![name], Some(word.as_bytes())).unwrap_or(());
        }

        fn reply(&self, status: u16, details: &str, headers: &[(&str, &[u8])], body: &[u8]) -> Result<(), HostError> {
            let headers = serialise(headers);
            // SAFETY: every pointer is valid for reads of its size for the duration of the call; the host copies.
            #[expect(unsafe_code, reason = "the SDK's call takes no response code details and only text values")]
            let status = unsafe {
                proxy_send_local_response(
                    u32::from(status),
                    details.as_ptr(),
                    details.len(),
                    body.as_ptr(),
                    body.len(),
                    headers.as_ptr(),
                    headers.len(),
                    -1,
                )
            };
            if status == 0 { Ok(()) } else { Err(HostError::Refused) }
        }

        fn resume_request(&self) -> Result<(), HostError> {
            abi::resume_http_request().map_err(refused)
        }

        fn select(&self, context: u32) -> Result<(), HostError> {
            abi::set_effective_context(context).map_err(refused)
        }

        fn register_queue(&self, name: &str) -> Result<u32, HostError> {
            let mut queue = 0;
            // SAFETY: the name is valid for reads, and the number for writes, for the duration of the call.
            #[expect(unsafe_code, reason = "the SDK panics where the capability is not allowed")]
            let status = unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &raw mut queue) };
            if status == 0 { Ok(queue) } else { Err(HostError::Refused) }
        }

        fn enqueue(&self, queue: u32) -> Result<(), HostError> {
            let message: &[u8] = &[];
            // SAFETY: the message is valid for reads for the duration of the call.
            #[expect(unsafe_code, reason = "the SDK panics where the capability is not allowed")]
            let status = unsafe { proxy_enqueue_shared_queue(queue, message.as_ptr(), message.len()) };
            if status == 0 { Ok(()) } else { Err(HostError::Refused) }
        }

        fn dequeue(&self, queue: u32) {
            let (mut data, mut size) = (std::ptr::null_mut(), 0);
            // SAFETY: both pointers are valid for writes for the duration of the call.
            #[expect(unsafe_code, reason = "the SDK panics where the capability is not allowed")]
            let status = unsafe { proxy_dequeue_shared_queue(queue, &raw mut data, &raw mut size) };
            if status == 0 && !data.is_null() {
                // SAFETY: as in `header_block`.
                #[expect(unsafe_code, reason = "takes ownership of the host's buffer, as the SDK does")]
                drop(unsafe { Vec::from_raw_parts(data, size, size) });
            }
        }

        fn call_foreign(&self, function: &str, argument: &[u8]) -> Result<Option<Vec<u8>>, HostError> {
            abi::call_foreign_function(function, Some(argument)).map_err(refused)
        }

        fn http_call(&self, call: &HttpCall<'_>) -> Result<u32, HostError> {
            let headers = call.headers.iter().map(|(name, value)| (*name, std::str::from_utf8(value).unwrap_or_default()));
            abi::dispatch_http_call(call.cluster, headers.collect(), call.body, Vec::new(), call.timeout).map_err(refused)
        }

        fn call_status(&self) -> Option<u16> {
            let value = abi::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status").ok().flatten()?;
            std::str::from_utf8(&value).ok()?.parse().ok()
        }

        fn call_header(&self, name: &str) -> Option<Vec<u8>> {
            abi::get_map_value_bytes(MapType::HttpCallResponseHeaders, name).ok().flatten()
        }

        fn call_body(&self, length: usize) -> Vec<u8> {
            abi::get_buffer(BufferType::HttpCallResponseBody, 0, length).ok().flatten().unwrap_or_default()
        }

        fn shared(&self, key: &str) -> Shared {
            abi::get_shared_data(key).map_or_else(|_| Shared::default(), |(value, cas)| Shared { value, cas })
        }

        fn set_shared(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), HostError> {
            abi::set_shared_data(key, Some(value), cas).map_err(refused)
        }

        fn define(&self, kind: Metric, name: &str) -> Option<u32> {
            let kind = match kind {
                Metric::Counter => MetricType::Counter,
                Metric::Gauge => MetricType::Gauge,
            };
            abi::define_metric(kind, name).ok()
        }

        fn increment(&self, metric: u32, by: i64) {
            abi::increment_metric(metric, by).unwrap_or(());
        }

        fn record(&self, metric: u32, value: u64) {
            abi::record_metric(metric, value).unwrap_or(());
        }
    }
}
