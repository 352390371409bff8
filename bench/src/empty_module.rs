//! A proxy-wasm module whose callbacks do nothing, as bytes: the floor under every filter of this kind. It is written here, and not compiled,
//! so that nothing but the calls themselves is measured.

const I32: u8 = 0x7f;
const FUNC: u8 = 0x60;

/// Signatures: how many parameters (all are `i32`) and results.
const SIGNATURES: [(u8, u8); 6] = [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (3, 1)];

/// Name, signature, and the constant that is returned.
const FUNCTIONS: [(&str, (u8, u8), u8); 12] = [
    ("proxy_abi_version_0_2_1", (0, 0), 0),
    ("_initialize", (0, 0), 0),
    // Wherever the host asks for memory, it gets the same: nothing is ever read from it.
    ("proxy_on_memory_allocate", (1, 1), 16),
    ("proxy_on_context_create", (2, 0), 0),
    ("proxy_on_vm_start", (2, 1), 1),
    ("proxy_on_configure", (2, 1), 1),
    ("proxy_on_request_headers", (3, 1), 0),
    ("proxy_on_response_headers", (3, 1), 0),
    ("proxy_on_response_body", (3, 1), 0),
    ("proxy_on_log", (1, 0), 0),
    ("proxy_on_done", (1, 1), 1),
    ("proxy_on_delete", (1, 0), 0),
];

/// The module (WebAssembly core specification, section 5.5).
pub(crate) fn bytes() -> Vec<u8> {
    let types = SIGNATURES.map(|(parameters, results)| {
        let list = |count: u8| std::iter::once(count).chain((0..count).map(|_index| I32));
        std::iter::once(FUNC).chain(list(parameters)).chain(list(results)).collect()
    });
    let functions = FUNCTIONS.map(|(_name, signature, _result)| vec![index_of(signature)]);
    let mut exports: Vec<Vec<u8>> = vec![export("memory", 0x02, 0)];
    exports.extend(FUNCTIONS.iter().zip(0_u8..).map(|((name, ..), index)| export(name, 0x00, index)));
    let bodies = FUNCTIONS.map(|(_name, (_parameters, results), result)| {
        // `i32.const`, where something is returned, then `end`. Constants below 64 are one signed LEB128 byte.
        let constant: &[u8] = if results == 0 { &[] } else { &[0x41, result & 0x3f] };
        let code = [&[0_u8][..], constant, &[0x0b]].concat();
        [leb128(code.len()), code].concat()
    });
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend(section(1, &types));
    module.extend(section(3, &functions));
    module.extend(section(5, &[vec![0x00, 1]]));
    module.extend(section(7, &exports));
    module.extend(section(10, &bodies));
    module
}

fn index_of(signature: (u8, u8)) -> u8 {
    SIGNATURES.iter().zip(0_u8..).find_map(|(known, index)| (*known == signature).then_some(index)).unwrap_or(0)
}

fn export(name: &str, kind: u8, index: u8) -> Vec<u8> {
    [leb128(name.len()), name.as_bytes().to_vec(), vec![kind, index]].concat()
}

fn section(id: u8, items: &[Vec<u8>]) -> Vec<u8> {
    let content = [leb128(items.len()), items.concat()].concat();
    [vec![id], leb128(content.len()), content].concat()
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_numbers_as_the_specification_says() {
        assert_eq!(leb128(0), [0]);
        assert_eq!(leb128(127), [0x7f]);
        assert_eq!(leb128(624_485), [0xe5, 0x8e, 0x26]);
    }

    #[test]
    fn every_function_has_a_known_signature_and_a_small_result() {
        for (name, signature, result) in FUNCTIONS {
            assert!(SIGNATURES.contains(&signature), "{name}");
            assert!(result < 64, "{name}");
        }
    }
}
