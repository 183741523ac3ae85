//! Messages between devices on their way (NVSHMEM, "Memory Ordering"): pieces arrive in any order,
//! those of an older fence to the same peer first, a signal after the data of its message.

use super::buffer::Writer;
use super::machine::Machine;
use super::poll::WatchedPlace;
use crate::schedule::Chance;

/// Bytes from one device to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) from: *const u8,
    pub(crate) to: *mut u8,
    /// The address at the target.
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

/// What a message does last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal {
    pub(crate) to: *mut u8,
    pub(crate) address: u64,
    pub(crate) value: u64,
    /// It is added to what is there.
    pub(crate) adds: bool,
    /// 4 or 8.
    pub(crate) bytes: u32,
}

/// A message.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) signal: Option<Signal>,
    pub(crate) writer: Writer,
    /// Data that the sender may overwrite at once; the pieces point here.
    #[allow(dead_code, reason = "it is read through the pieces")]
    pub(crate) copy: Vec<u8>,
    pub(crate) epoch: u64,
    pub(crate) number: u64,
}

// SAFETY: the pointers lead into device memory, which outlives the run; one host thread at a time
// uses them.
unsafe impl Send for Flight {}
// SAFETY: as above.
unsafe impl Sync for Flight {}

impl Flight {
    /// What [`Flight::step`] will write: address and host's place, and how much.
    fn next(&self, which: usize) -> ((u64, *const u8), u64) {
        if !self.pieces.is_empty() {
            let piece = &self.pieces[which % self.pieces.len()];
            return ((piece.address, piece.to.cast_const()), piece.bytes);
        }
        let signal = self.signal.map(|one| ((one.address, one.to.cast_const()), one.bytes));
        signal.map_or(((0, std::ptr::null()), 0), |(place, bytes)| (place, u64::from(bytes)))
    }

    /// Delivers a piece, or the signal once there are none; true if that was the last.
    fn step(&mut self, which: usize) -> bool {
        if !self.pieces.is_empty() {
            let piece = self.pieces.swap_remove(which % self.pieces.len());
            // SAFETY: both ranges were checked when the message was sent.
            unsafe { std::ptr::copy(piece.from, piece.to, piece.bytes as usize) };
            return self.pieces.is_empty() && self.signal.is_none();
        }
        let Some(signal) = self.signal.take() else { return true };
        // SAFETY: as above; the address is aligned.
        unsafe {
            if signal.bytes == 4 {
                let to = signal.to.cast::<u32>();
                let old = if signal.adds { to.read() } else { 0 };
                to.write(old.wrapping_add(signal.value as u32));
            } else {
                let to = signal.to.cast::<u64>();
                let old = if signal.adds { to.read() } else { 0 };
                to.write(old.wrapping_add(signal.value));
            }
        }
        true
    }
}

impl Machine {
    /// Sends a message: delivers it at once, or some time later.
    pub(crate) fn send(&mut self, mut flight: Flight) -> u64 {
        self.sent += 1;
        flight.number = self.sent;
        flight.epoch = self.epochs.get(flight.from as usize).copied().unwrap_or(0);
        if let Some(pending) = self.pending.get_mut(flight.from as usize) {
            *pending += 1;
        }
        self.flights.push(flight);
        if self.chance.is_none() {
            self.deliver_all();
        }
        self.sent
    }

    /// `nvshmem_fence`: later messages of the rank arrive after earlier ones to the same peer.
    pub(crate) fn fence_messages(&mut self, rank: u32) {
        if let Some(epoch) = self.epochs.get_mut(rank as usize) {
            *epoch += 1;
        }
    }

    /// Delivers the next part of the message at `index`, or of one that must come before it.
    fn deliver(&mut self, index: usize, which: usize) {
        let (from, to, epoch) = {
            let flight = &self.flights[index];
            (flight.from, flight.to, flight.epoch)
        };
        let before = |one: &Flight| one.from == from && one.to == to && one.epoch < epoch;
        let index = self.flights.iter().position(before).unwrap_or(index);
        let writer = self.flights[index].writer;
        let (place, bytes) = self.flights[index].next(which);
        self.before_arrival(place, bytes, writer);
        let is_done = self.flights[index].step(which);
        if is_done {
            let from = self.flights.remove(index).from;
            if let Some(pending) = self.pending.get_mut(from as usize) {
                *pending -= 1;
            }
        }
    }

    /// Delivers all messages.
    pub(crate) fn deliver_all(&mut self) {
        while !self.flights.is_empty() {
            self.deliver(0, 0);
        }
    }

    /// What `nvshmem_quiet` of a rank waits for; nothing if all its messages have arrived.
    pub(crate) fn unquiet(&self, rank: u32) -> Option<WatchedPlace> {
        let pending = self.pending.get(rank as usize).filter(|&&pending| pending > 0)?;
        let (host, value) = (std::ptr::from_ref(pending).cast(), u128::from(*pending));
        Some(WatchedPlace { host, address: 0, bytes: 4, value })
    }

    /// Delivers a message, and those that must come before it.
    pub(crate) fn deliver_message(&mut self, number: u64) {
        while let Some(index) = self.flights.iter().position(|one| one.number == number) {
            self.deliver(index, 0);
        }
    }

    /// Delivers some parts by chance.
    pub(crate) fn deliver_some(&mut self) {
        let Some(mut chance) = self.chance.take() else { return };
        for _ in 0..self.flights.len() {
            if !self.flights.is_empty() && chance.is_due() {
                self.deliver_any(&mut chance);
            }
        }
        self.chance = Some(chance);
    }

    /// Delivers a part of some message; false if there is none.
    pub(crate) fn deliver_one(&mut self) -> bool {
        let Some(mut chance) = self.chance.take() else { return false };
        let any = !self.flights.is_empty();
        if any {
            self.deliver_any(&mut chance);
        }
        self.chance = Some(chance);
        any
    }

    fn deliver_any(&mut self, chance: &mut Chance) {
        let index = chance.below(self.flights.len() as u32) as usize;
        let which = chance.below(1 << 16) as usize;
        self.deliver(index, which);
    }
}
