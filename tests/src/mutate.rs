//! Broken inputs made from good ones.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Makes broken texts and files: bytes flipped, dropped, doubled, numbers made huge, pieces
/// moved or spliced in from another input. The same seed makes the same inputs.
#[derive(Debug)]
pub struct Mutator {
    rng: SmallRng,
}

/// Values at which arithmetic on sizes goes wrong.
const EDGES: [&str; 8] =
    ["0", "-1", "4294967296", "9223372036854775807", "18446744073709551615", "1e400", "nan", "\0"];

impl Mutator {
    /// A mutator with a seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed) }
    }

    /// A broken version of one of the inputs.
    pub fn mutate(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.rng.random_range(0..inputs.len())].clone();
        for _ in 0..self.rng.random_range(1..=4) {
            self.step(&mut bytes, inputs);
        }
        bytes
    }

    fn step(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.rng.random_range(0..=bytes.len());
        let end = (at + self.rng.random_range(0..64)).min(bytes.len());
        match self.rng.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.rng.random_range(0..8),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.truncate(at),
            3 => {
                let piece = bytes[at..end].to_vec();
                let times = 1 << self.rng.random_range(0..8);
                bytes.splice(at..at, piece.repeat(times));
            }
            4 => {
                let edge = EDGES[self.rng.random_range(0..EDGES.len())];
                let digits = bytes[at..].iter().position(u8::is_ascii_digit).map(|d| at + d);
                let from = digits.unwrap_or(at);
                let to = from + bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
                bytes.splice(from..to, edge.bytes());
            }
            5 => {
                let other = &inputs[self.rng.random_range(0..inputs.len())];
                let from = self.rng.random_range(0..=other.len());
                let to = (from + self.rng.random_range(0..256)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            6 => {
                let line = |b: &[u8], at: usize| {
                    let start = b[..at].iter().rposition(|&c| c == b'\n').map_or(0, |p| p + 1);
                    let len = b[start..]
                        .iter()
                        .position(|&c| c == b'\n')
                        .map_or(b.len() - start, |p| p + 1);
                    (start, start + len)
                };
                let (start, end) = line(bytes, at);
                let moved: Vec<u8> = bytes.drain(start..end).collect();
                let to = self.rng.random_range(0..=bytes.len());
                bytes.splice(to..to, moved);
            }
            _ => {
                let open = [b"(" as &[u8], b"{", b"[", b"\"", b"-", b"/*"];
                let nest = open[self.rng.random_range(0..open.len())]
                    .repeat(1 << self.rng.random_range(0..12));
                bytes.splice(at..at, nest);
            }
        }
    }
}
