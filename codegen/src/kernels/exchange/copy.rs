//! Rows copied by a warp.

use crate::builder::{Builder, I32, Ptr};
use crate::tensor::vector_width;
use moec_ir::kernel::View;

/// Accesses of a lane that are under way at once.
const AT_ONCE: u64 = 4;

/// Bytes of a row that can be accessed at once: 16 or less.
pub(super) fn unit(view: &View) -> u64 {
    vector_width(view) * view.dtype.bytes()
}

/// Copies `bytes` bytes, `unit` at a time: a power of two up to 16 that divides addresses and
/// their number. All lanes of the warp come here; each has stored its part, no more.
pub(super) fn copy<'k>(b: &'k Builder<'k>, from: Ptr<'k>, to: Ptr<'k>, bytes: u64, unit: u64) {
    let (chunks, lane) = (bytes / unit, b.lane());
    let at_once = 32 * AT_ONCE;
    let whole = chunks / at_once * at_once;
    if whole > 0 {
        b.for_loop(lane, b.i32(whole), b.i32(at_once), (), |chunk, ()| {
            let at = |i: u64| chunk + b.i32(32 * i);
            let loaded: Vec<_> =
                (0..AT_ONCE).map(|i| load(from.index(at(i), unit), unit)).collect();
            for (i, words) in (0..).zip(&loaded) {
                store(to.index(at(i), unit), words);
            }
        });
    }
    for first in (whole..chunks).step_by(32) {
        let chunk = lane + b.i32(first);
        let move_one = || store(to.index(chunk, unit), &load(from.index(chunk, unit), unit));
        match first + 32 <= chunks {
            true => move_one(),
            false => b.if_(chunk.lt(b.i32(chunks)), move_one),
        }
    }
}

/// What is moved at once.
enum Words<'k> {
    Whole(Vec<I32<'k>>),
    Half(crate::builder::Val<'k, u16>),
    Byte(crate::builder::Val<'k, u8>),
}

fn load(from: Ptr<'_>, unit: u64) -> Words<'_> {
    match unit {
        1 => Words::Byte(from.load_scalar()),
        2 => Words::Half(from.load_scalar()),
        _ => Words::Whole(from.load_words((unit / 4) as usize)),
    }
}

fn store<'k>(to: Ptr<'k>, words: &Words<'k>) {
    match words {
        Words::Byte(byte) => to.store_scalar(*byte),
        Words::Half(half) => to.store_scalar(*half),
        Words::Whole(words) => to.store_words(words),
    }
}
