//! Tables that depend on the model alone.

use moec_ir::graph::Rotary;

/// float32 `[positions, dim / 2, 2]`: cosine and sine of position times frequency, times the
/// amplitude; computed in float64 and rounded once.
pub fn rotary_table(rotary: &Rotary, positions: u64) -> Vec<u8> {
    let frequencies = rotary.frequencies();
    let mut bytes = Vec::with_capacity(positions as usize * frequencies.len() * 8);
    for position in 0..positions {
        for frequency in &frequencies {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            bytes.extend(((cos * rotary.amplitude.0) as f32).to_le_bytes());
            bytes.extend(((sin * rotary.amplitude.0) as f32).to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use moec_ir::Real;

    #[test]
    fn the_first_pair_turns_one_radian_per_position() {
        let rotary = Rotary {
            dim: 4,
            theta: Real(10_000.0),
            interleaved: true,
            amplitude: Real(2.0),
            yarn: None,
        };
        let bytes = rotary_table(&rotary, 3);
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let two = 2.0f64;
        let expected = [2.0 * two.cos(), 2.0 * two.sin(), 2.0 * 0.02f64.cos(), 2.0 * 0.02f64.sin()];
        assert_eq!(values[..4], [2.0, 0.0, 2.0, 0.0]);
        assert_eq!(values[8..], expected.map(|v| v as f32));
    }
}
