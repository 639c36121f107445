//! [pure] A BitTorrent description of one file (BEP 3), as clients want it: bencoded, SHA-1.

const BLOCK: usize = 64;

/// What describes `bytes` under a name, cut into pieces.
pub(super) fn describe(name: &str, bytes: &[u8], piece_bytes: usize) -> Vec<u8> {
    let mut pieces = Vec::new();
    for piece in bytes.chunks(piece_bytes) {
        pieces.extend_from_slice(&sha1(piece));
    }
    let mut text = format!(
        "d4:infod6:lengthi{}e4:name{}:{name}12:piece lengthi{piece_bytes}e6:pieces{}:",
        bytes.len(),
        name.len(),
        pieces.len()
    )
    .into_bytes();
    text.extend_from_slice(&pieces);
    text.extend_from_slice(b"ee");
    text
}

/// SHA-1 (FIPS 180-4). Pieces are named by it; nothing of ours trusts it.
fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut state = [
        0x6745_2301_u32,
        0xEFCD_AB89,
        0x98BA_DCFE,
        0x1032_5476,
        0xC3D2_E1F0,
    ];
    let whole = bytes.chunks_exact(BLOCK);
    let mut rest = whole.remainder().to_vec();
    whole.for_each(|block| mix(&mut state, block));
    rest.push(0x80);
    while rest.len() % BLOCK != BLOCK - 8 {
        rest.push(0);
    }
    let bits = (bytes.len() as u64).wrapping_mul(8);
    rest.extend((0..8).rev().map(|place| low_byte(bits >> (8 * place))));
    rest.chunks_exact(BLOCK)
        .for_each(|block| mix(&mut state, block));
    let mut digest = [0; 20];
    let words = state.iter().flat_map(|word| {
        let word = u64::from(*word);
        (0..4).rev().map(move |place| low_byte(word >> (8 * place)))
    });
    digest
        .iter_mut()
        .zip(words)
        .for_each(|(to, byte)| *to = byte);
    digest
}

fn low_byte(word: u64) -> u8 {
    u8::try_from(word & 0xFF).unwrap_or(0)
}

fn mix(state: &mut [u32; 5], block: &[u8]) {
    let mut words: Vec<u32> = block
        .chunks_exact(4)
        .map(|four| {
            four.iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte))
        })
        .collect();
    let at = |words: &[u32], back: usize| {
        let place = words.len().checked_sub(back);
        place
            .and_then(|place| words.get(place))
            .copied()
            .unwrap_or(0)
    };
    while words.len() < 80 {
        let word = at(&words, 3) ^ at(&words, 8) ^ at(&words, 14) ^ at(&words, 16);
        words.push(word.rotate_left(1));
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (round, word) in words.into_iter().enumerate() {
        let (choice, constant) = match round / 20 {
            0 => (b & c | !b & d, 0x5A82_7999),
            1 => (b ^ c ^ d, 0x6ED9_EBA1),
            2 => (b & c | b & d | c & d, 0x8F1B_BCDC),
            _ => (b ^ c ^ d, 0xCA62_C1D6),
        };
        let next = a.rotate_left(5).wrapping_add(choice).wrapping_add(e);
        let next = next.wrapping_add(constant).wrapping_add(word);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    for (to, word) in state.iter_mut().zip([a, b, c, d, e]) {
        *to = to.wrapping_add(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digest: [u8; 20]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        for (text, wanted) in [
            ("", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            ("abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
            ),
        ] {
            assert_eq!(hex(sha1(text.as_bytes())), wanted, "{text}");
        }
    }

    #[test]
    fn a_description_names_each_piece() {
        let told = describe("f", &[7; 100], 64);
        let text = String::from_utf8_lossy(&told);
        let start = "d4:infod6:lengthi100e4:name1:f12:piece lengthi64e6:pieces40:";
        assert!(text.starts_with(start), "{text}");
        assert_eq!(told.len(), start.len() + 40 + 2);
    }
}
