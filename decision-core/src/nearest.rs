//! The nearest valid name, for errors about one that refers to nothing.

/// What is longer is no name, and takes quadratic time to compare.
const NAME_BYTES_MAX: usize = 256;

/// The known name with the least edit distance to `name`, if it is at all similar.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let similar = name.len().div_ceil(2);
    // Names whose lengths differ by more than that cannot be similar.
    let candidates = known.filter(|known| known.len().abs_diff(name.len()) <= similar);
    let nearest = candidates.map(|known| (distance(name, known), known)).min();
    nearest.filter(|(distance, _)| *distance <= similar).map(|(_, known)| known)
}

/// Levenshtein's distance, in bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, a) in left.bytes().enumerate() {
        let mut diagonal = index;
        let mut last = index + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *cell;
            last = replaced.min(diagonal + 1).min(last + 1);
            *cell = last;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
