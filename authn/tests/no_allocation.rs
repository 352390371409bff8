//! A cached token is found without allocating. Its own binary: it counts every allocation of the process.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use authn::TokenCache;
use decision_core::time::Timestamp;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as this function's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as this function's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_lookup_allocates_nothing() {
    let mut cache = TokenCache::new(100, 1 << 20);
    let values: Vec<String> = (0..100).map(|index| format!("Bearer {index:0>700}")).collect();
    let later = Timestamp::from_seconds(100);
    for (index, value) in values.iter().enumerate() {
        cache.insert(value.as_bytes(), Rc::new(index), later);
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let mut found = 0;
    for value in &values {
        found += usize::from(cache.get(value.as_bytes(), Timestamp::EPOCH).is_some());
        found += usize::from(cache.get(b"Bearer unknown", Timestamp::EPOCH).is_some());
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
    assert_eq!(found, 100);
}
