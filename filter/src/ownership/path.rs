//! The path: one segment replaced.

use super::query;
use decision_core::path::CanonicalPath;

/// `path` with `id` as its segment number `segment`, from 0. `None` where that would be another path than it seems: an id
/// with a slash, or one that is a dot segment.
pub(super) fn force(path: &str, segment: usize, id: &str) -> Option<String> {
    let mut forced = String::with_capacity(path.len().saturating_add(id.len()));
    let mut segments = path.strip_prefix('/')?.split('/');
    for before in segments.by_ref().take(segment) {
        forced.push('/');
        forced.push_str(before);
    }
    segments.next()?;
    forced.push('/');
    query::escape(&mut forced, id);
    for after in segments {
        forced.push('/');
        forced.push_str(after);
    }
    CanonicalPath::parse(forced.as_bytes()).is_ok_and(|parsed| parsed.query().is_none()).then_some(forced)
}
