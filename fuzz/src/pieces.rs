//! How an input is cut, said by its own first bytes.

/// Bytes at the start of an input that say how the rest is cut.
pub const PLAN_BYTES: usize = 4;

/// Lengths of the pieces, taken in turn; 0 means all that is left.
#[derive(Clone, Copy, Debug)]
pub struct Pieces([u8; PLAN_BYTES]);

impl Pieces {
    /// All in one piece.
    pub const WHOLE: Self = Self([0; PLAN_BYTES]);

    /// Byte by byte.
    pub const EACH: Self = Self([1; PLAN_BYTES]);

    /// Splits the plan off an input; `None` if the input is too short to hold one.
    pub fn take(input: &[u8]) -> Option<(Self, &[u8])> {
        input.split_first_chunk().map(|(plan, rest)| (Self(*plan), rest))
    }

    /// The pieces of `bytes`, in order; none of them is empty.
    pub fn of(self, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut rest = bytes;
        let mut lengths = self.0.into_iter().cycle();
        std::iter::from_fn(move || {
            let wanted = match lengths.next()? {
                0 => rest.len(),
                length => usize::from(length).min(rest.len()),
            };
            let (piece, left) = rest.split_at(wanted);
            rest = left;
            (!piece.is_empty()).then_some(piece)
        })
    }
}
