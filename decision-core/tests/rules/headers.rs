//! The header block: whatever the bytes are, what is accepted is what was written.

use crate::cases;
use decision_core::facts::{HeaderBlock, Presented};
use proptest::prelude::*;

type Pair = (Vec<u8>, Vec<u8>);

fn block(headers: &[Pair]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let mut bytes = u32::try_from(headers.len()).unwrap().to_le_bytes().to_vec();
    for (name, value) in headers {
        bytes.extend([length(name), length(value)].concat());
    }
    for (name, value) in headers {
        bytes.extend([name, &b"\0"[..], value, b"\0"].concat());
    }
    bytes
}

fn headers() -> impl Strategy<Value = Vec<Pair>> {
    let name = prop_oneof!["[a-cA-C:-]{0,6}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..6)];
    prop::collection::vec((name, prop::collection::vec(any::<u8>(), 0..12)), 0..12)
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn what_was_written_is_read(headers in headers()) {
        let bytes = block(&headers);
        let read: Vec<Pair> = HeaderBlock::parse(&bytes).unwrap().iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        prop_assert_eq!(read, headers);
    }

    #[test]
    fn a_header_is_absent_once_or_repeated_whatever_its_case(headers in headers(), name in "[a-c:-]{1,3}") {
        let bytes = block(&headers);
        let same = headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes())).count();
        match HeaderBlock::parse(&bytes).unwrap().presented(name.as_bytes()) {
            Presented::Absent => prop_assert_eq!(same, 0),
            Presented::Once(_) => prop_assert_eq!(same, 1),
            Presented::Repeated => prop_assert!(same > 1),
        }
    }

    #[test]
    fn a_damaged_block_is_refused_or_read_but_never_panics(
        headers in headers(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = block(&headers);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(block) = HeaderBlock::parse(&bytes) {
            let total: usize = block.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
            prop_assert!(total <= bytes.len());
        }
    }

    #[test]
    fn any_bytes_at_all_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(block) = HeaderBlock::parse(&bytes) {
            prop_assert!(block.iter().count() <= bytes.len());
        }
    }
}
