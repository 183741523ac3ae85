//! Loops that only wait: recognised when a turn of the loop has changed nothing, so that the warp
//! can sleep until a value that it read changes.

/// Places that are remembered at most; a loop that reads more is left to run.
const PLACES: usize = 1024;
/// Loops whose last turn is remembered.
const MARKS: usize = 4;
/// Turns in which registers changed before a loop is looked at only at times.
const EAGER: u32 = 32;

/// A value that a loop has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WatchedPlace {
    /// Where the host holds it.
    pub(crate) host: *const u8,
    /// The address, of device memory or (then below 2 to the 32) of shared memory.
    pub(crate) address: u64,
    pub(crate) bytes: u8,
    pub(crate) value: u128,
}

// SAFETY: the pointer leads into memory of the device or of the CTA, which outlive the warp's wait;
// the host thread that runs the launch reads it.
unsafe impl Send for WatchedPlace {}
// SAFETY: as above.
unsafe impl Sync for WatchedPlace {}

impl WatchedPlace {
    /// What memory holds there now.
    pub(crate) fn current(&self) -> u128 {
        let mut bytes = [0; 16];
        let count = usize::from(self.bytes.min(16));
        // SAFETY: the address was checked when the loop read it.
        unsafe { std::ptr::copy_nonoverlapping(self.host, bytes.as_mut_ptr(), count) };
        u128::from_le_bytes(bytes)
    }

    fn is_unchanged(&self) -> bool {
        self.current() == self.value
    }
}

/// The state at a jump backwards.
#[derive(Clone, Copy, Debug)]
struct Mark {
    pc: u32,
    mask: u32,
    registers: Option<u64>,
    effects: u64,
    /// Places read before it.
    start: usize,
    misses: u32,
}

/// What the loops of a warp have read, and the waits that came of it.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    places: Vec<WatchedPlace>,
    /// Places before the last jump backwards.
    turned: usize,
    marks: Vec<Mark>,
    /// Reads that a loop might wait by, since the last jump backwards.
    hopeful: bool,
    /// The time was read since then, so that the loop may end by itself.
    timed: bool,
    sleeping: Vec<Vec<WatchedPlace>>,
    /// Effects of the warp before its turn, and the launch's count at the turn's begin.
    before: u64,
    begin: u64,
}

impl Polls {
    pub(crate) fn clear(&mut self) {
        *self = Polls::default();
    }

    /// The warp's turn begins, when the launch has had so many effects.
    pub(crate) fn begin_turn(&mut self, progress: u64) {
        self.begin = progress;
    }

    /// The warp's turn ends.
    pub(crate) fn end_turn(&mut self, progress: u64) {
        self.before += progress - self.begin;
        self.begin = progress;
    }

    /// The time was read.
    pub(crate) fn read_clock(&mut self) {
        self.timed = true;
    }

    /// A value was read; `waits` for an access by which threads may wait for others.
    pub(crate) fn read(&mut self, place: WatchedPlace, waits: bool) {
        if !waits && self.marks.is_empty() {
            return;
        }
        self.hopeful |= waits;
        let fresh = &self.places[self.turned.min(self.places.len())..];
        if fresh.last() != Some(&place) {
            self.places.push(place);
        }
        if self.places.len() > PLACES {
            self.places.clear();
            self.marks.clear();
            self.turned = 0;
        }
    }

    /// The lanes of `mask` jump backwards at `pc`. A number for [`Polls::is_awake`] if the loop
    /// does nothing but wait: since they were here last nothing was stored, no register has
    /// changed, and memory still holds what was read.
    pub(crate) fn turn(
        &mut self,
        pc: u32,
        mask: u32,
        progress: u64,
        registers: impl FnOnce() -> u64,
    ) -> Option<u32> {
        let (hopeful, timed) = (self.hopeful, self.timed);
        (self.hopeful, self.timed) = (false, false);
        if !hopeful {
            return None;
        }
        if timed {
            self.marks.clear();
            self.places.clear();
            self.turned = 0;
            return None;
        }
        let effects = self.before + (progress - self.begin);
        if self.marks.first().is_some_and(|mark| mark.effects != effects) {
            self.marks.clear();
            self.places.clear();
        }
        let start = self.places.len();
        self.turned = start;
        let Some(mark) = self.marks.iter_mut().find(|one| (one.pc, one.mask) == (pc, mask)) else {
            if self.marks.len() == MARKS {
                self.marks.remove(0);
            }
            let registers = Some(registers());
            self.marks.push(Mark { pc, mask, registers, effects, start, misses: 0 });
            return None;
        };
        if mark.misses > EAGER && mark.misses % EAGER >= 2 {
            mark.misses += 1;
            (mark.registers, mark.start) = (None, start);
            return None;
        }
        let registers = registers();
        if mark.registers != Some(registers) {
            (mark.registers, mark.start) = (Some(registers), start);
            mark.misses += 1;
            return None;
        }
        let mut read = self.places[mark.start..].to_vec();
        mark.start = start;
        if read.is_empty() || !read.iter().all(WatchedPlace::is_unchanged) {
            return None;
        }
        read.sort_unstable_by_key(|place| (place.address, place.bytes));
        read.dedup();
        self.marks.clear();
        self.places.clear();
        self.turned = 0;
        Some(self.sleep(read))
    }

    /// Waits for a change of any of these places.
    pub(crate) fn sleep(&mut self, places: Vec<WatchedPlace>) -> u32 {
        let free = self.sleeping.iter().position(Vec::is_empty);
        let slot = free.unwrap_or(self.sleeping.len());
        if free.is_none() {
            self.sleeping.push(Vec::new());
        }
        self.sleeping[slot] = places;
        slot as u32
    }

    /// Whether a place of that wait has changed.
    pub(crate) fn is_awake(&self, slot: u32) -> bool {
        !self.places_of(slot).iter().all(WatchedPlace::is_unchanged)
    }

    /// What that wait is for.
    pub(crate) fn places_of(&self, slot: u32) -> &[WatchedPlace] {
        self.sleeping.get(slot as usize).map_or(&[], Vec::as_slice)
    }

    /// The wait is over.
    pub(crate) fn wake(&mut self, slot: u32) {
        if let Some(places) = self.sleeping.get_mut(slot as usize) {
            places.clear();
        }
    }
}

/// A number that two states of registers have in common only if they are the same, as good as
/// always.
pub(crate) fn digest(words: &[u64]) -> u64 {
    words.iter().fold(0x9e37_79b9_7f4a_7c15, |sum: u64, &word| {
        (sum.rotate_left(23) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd)
    })
}
