//! A hundred thousand revocations cost a worker a few megabytes, and a look-up nothing. Its own binary: it counts every
//! byte of the process.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use authn::{Mark, Marks, Revocations};
use decision_core::principal::{Identity, RevocationKind, Trial};
use decision_core::time::Timestamp;

const ENTRIES: usize = 100_000;
const BYTES_MAX: usize = 8_000_000;

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        let bytes = BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(bytes, Ordering::Relaxed);
        // SAFETY: as this function's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as this function's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn token(id: usize) -> Identity {
    Identity {
        issuer: "cp".into(),
        subject: "u-1".into(),
        user_id: "u-1".into(),
        email: "u@example.com".into(),
        customer_id: Some("c-1".into()),
        agent_id: None,
        governor_agent_id: None,
        roles: vec!["user".into()],
        tier: None,
        trial: Trial::No,
        token_id: Some(id.to_string().into()),
        token_version: Some(1),
        key_id: Some("k-1".into()),
        issued_at: Timestamp::EPOCH,
        expires_at: Timestamp::from_seconds(600),
    }
}

fn revoke_all(revocations: &mut Revocations) {
    for id in 0..ENTRIES {
        revocations.revoke(Mark::of(RevocationKind::Token, "cp", &id.to_string()), 0);
    }
}

/// The only test: others would allocate beside it.
#[test]
fn a_hundred_thousand_entries_cost_at_most_eight_megabytes_and_a_look_up_allocates_nothing() {
    let before = BYTES.load(Ordering::Relaxed);
    let mut revocations = Revocations::default();
    revocations.reset(ENTRIES);
    revoke_all(&mut revocations);
    let after = BYTES.load(Ordering::Relaxed) - before;
    let peak = PEAK.load(Ordering::Relaxed) - before;
    println!("{ENTRIES} entries, filled at once: {after} bytes, {peak} at most");
    assert_eq!(revocations.len(), ENTRIES);
    assert!(after <= BYTES_MAX && peak <= BYTES_MAX, "{after} {peak}");

    let marks: Vec<Marks> = (0..ENTRIES * 2).step_by(1_000).map(|id| Marks::of(&token(id))).collect();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let found = marks.iter().filter(|marks| revocations.find(marks).is_some()).count();
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), allocations);
    assert_eq!(found, marks.len() / 2);

    drop(revocations);
    let mut grown = Revocations::default();
    revoke_all(&mut grown);
    let after = BYTES.load(Ordering::Relaxed) - before;
    println!("{ENTRIES} entries, one by one: {after} bytes");
    assert!(after <= BYTES_MAX, "{after}");
}
