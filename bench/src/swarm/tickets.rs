//! Tickets of many visitors, in one piece of memory: 300 bytes each, and a million of them must fit.

/// Tickets by number.
#[derive(Default, Debug)]
pub struct Tickets {
    text: String,
    ends: Vec<usize>,
}

impl Tickets {
    /// Adds one.
    pub fn push(&mut self, ticket: &str) {
        self.text.push_str(ticket);
        self.ends.push(self.text.len());
    }

    /// The same again, behind the others: each visitor with a second device.
    pub fn twice(mut self) -> Self {
        let (bytes, count) = (self.text.len(), self.ends.len());
        self.text = self.text.repeat(2);
        self.ends.extend_from_within(..);
        self.ends[count..].iter_mut().for_each(|end| *end += bytes);
        self
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The ticket with this number. Panics beyond the last.
    pub fn get(&self, number: usize) -> &str {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.text[start..self.ends[number]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_come_out_as_they_went_in() {
        let mut tickets = Tickets::default();
        for ticket in ["first", "", "third"] {
            tickets.push(ticket);
        }
        assert_eq!(tickets.len(), 3);
        assert_eq!([tickets.get(0), tickets.get(1), tickets.get(2)], ["first", "", "third"]);
        let twice = tickets.twice();
        assert_eq!((twice.len(), twice.get(3), twice.get(4), twice.get(5)), (6, "first", "", "third"));
    }
}
