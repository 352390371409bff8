//! A cached token is found without allocating. Its own binary: it counts every allocation of the thread.

#[path = "../../decision-core/tests/counting/mod.rs"]
mod counting;

use std::rc::Rc;

use authn::TokenCache;
use counting::allocations;
use decision_core::time::Timestamp;

#[test]
fn a_lookup_allocates_nothing() {
    let mut cache = TokenCache::new(100, 1 << 20);
    let values: Vec<String> = (0..100).map(|index| format!("Bearer {index:0>700}")).collect();
    let later = Timestamp::from_seconds(100);
    for (index, value) in values.iter().enumerate() {
        cache.insert(value.as_bytes(), Rc::new(index), later);
    }
    let look_up = || {
        let mut found = 0;
        for value in &values {
            found += usize::from(cache.get(value.as_bytes(), Timestamp::EPOCH).is_some());
            found += usize::from(cache.get(b"Bearer unknown", Timestamp::EPOCH).is_some());
        }
        found
    };
    assert_eq!(allocations(look_up), (0, 100));
}
