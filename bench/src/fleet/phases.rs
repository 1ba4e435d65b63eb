//! The parts of a run that are not load: everybody arrives, everybody leaves, histories are read.

use ringdesk_protocol::Availability;

use super::{Fleet, SETUP_NS_MAX};
use crate::ledger::{Seen, Side};
use crate::net::{Link, Transport};

/// Conversations whose history is read at once.
const HISTORY_WINDOW: usize = 64;
/// How long a page of history may take.
const HISTORY_NS_MAX: u64 = 30_000_000_000;

impl Fleet {
    /// Connects everybody and waits for every WELCOME. After an outage this resumes: cursors go with the HELLO and
    /// what was not acknowledged is sent again.
    ///
    /// # Errors
    /// A sentence when a connection is refused or the WELCOMEs do not all come.
    pub fn connect_all(&mut self) -> Result<(), String> {
        for number in 0..self.members.len() {
            let member = &mut self.members[number];
            let address = match member.transport {
                Transport::Binary => self.crew.binary,
                Transport::WebSocket => self.crew.websocket,
            };
            let mut link = Link::connect(&self.poll, address, member.transport, number)?;
            member.client.hello(&mut link.frames);
            member.link = Some(link);
            self.touch(number);
            // Reading on while connecting keeps the server's send buffers empty.
            if number.is_multiple_of(64) {
                self.turn(0);
            }
        }
        let all_ready = |fleet: &Self| fleet.members.iter().all(|m| m.client.ready());
        if self.run_until(SETUP_NS_MAX, all_ready) {
            return Ok(());
        }
        let missing = self.members.iter().filter(|m| !m.client.ready()).count();
        Err(format!("{missing} of {} connections got no WELCOME; {}", self.members.len(), self.fault_list()))
    }

    /// First connection: agents online, conversations opened, one message each, all assigned.
    ///
    /// # Errors
    /// A sentence naming what is missing.
    pub fn begin(&mut self) -> Result<(), String> {
        self.connect_all()?;
        let visitors = self.conversations();
        let agents = self.members.len() - visitors;
        for number in visitors..self.members.len() {
            let capacity = self.crew.capacity;
            self.write(number, |client, out| client.declare(Availability::Online, capacity, out));
        }
        if !self.run_until(SETUP_NS_MAX, |fleet| fleet.present == agents) {
            return Err(format!("{} of {agents} agents came online; {}", self.present, self.fault_list()));
        }
        for number in 0..visitors {
            self.write(number, |client, out| client.open(out));
        }
        let done = |fleet: &Self| fleet.owner.iter().all(Option::is_some) && fleet.pending_acks == 0;
        if self.run_until(SETUP_NS_MAX, done) {
            return Ok(());
        }
        let assigned = self.owner.iter().filter(|owner| owner.is_some()).count();
        Err(format!("{assigned} of {visitors} conversations were assigned; {}", self.fault_list()))
    }

    /// Ends every conversation and sends the agents home, so that the next run finds a free site. Not measured.
    pub fn end(&mut self) {
        for number in 0..self.conversations() {
            let id = self.ledger[number].id;
            if self.members[number].link.is_some() && id != 0 {
                self.write(number, |client, out| client.resolve(id, out));
            }
        }
        let visitors = self.conversations();
        self.run_until(SETUP_NS_MAX / 10, |fleet| fleet.resolved == visitors);
        self.present = 0;
        for number in visitors..self.members.len() {
            if self.members[number].link.is_some() {
                self.write(number, |client, out| client.declare(Availability::Offline, 0, out));
            }
        }
        let agents = self.members.len() - visitors;
        self.run_until(SETUP_NS_MAX / 10, |fleet| fleet.present == agents);
    }

    /// Reads the stored items of each conversation after `from[conversation]`, through the given side's
    /// connection, a page at a time, 64 conversations at once.
    ///
    /// # Errors
    /// A sentence when the pages stop coming.
    pub fn read_history(&mut self, side: Side, from: &[u64]) -> Result<Vec<Vec<Seen>>, String> {
        let mut read: Vec<Vec<Seen>> = vec![Vec::new(); from.len()];
        let (mut next, mut open) = (0, 0);
        while next < from.len() || open > 0 {
            while open < HISTORY_WINDOW && next < from.len() {
                self.ask_history(next, side, from[next]);
                (next, open) = (next + 1, open + 1);
            }
            let answered = |fleet: &Self| !fleet.pages.is_empty() || !fleet.page_retries.is_empty();
            if !self.run_until(HISTORY_NS_MAX, answered) {
                return Err(format!("{open} pages of history did not come; {}", self.fault_list()));
            }
            for (conversation, _, items, more) in std::mem::take(&mut self.pages) {
                let last = items.last().map(|item| item.seq);
                read[conversation].extend(items);
                match last.filter(|_| more) {
                    Some(seq) => self.ask_history(conversation, side, seq),
                    None => open -= 1,
                }
            }
            let now = self.now_ns();
            let (due, later): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.page_retries).into_iter().partition(|(_, _, at)| *at <= now);
            for (conversation, side, _) in due {
                let after = read[conversation].last().map_or(from[conversation], |item| item.seq);
                self.ask_history(conversation, side, after);
            }
            if !later.is_empty() {
                self.turn(later[0].2);
                self.page_retries.extend(later);
            }
        }
        Ok(read)
    }

    fn ask_history(&mut self, conversation: usize, side: Side, after: u64) {
        let number = match side {
            Side::Visitor => conversation,
            Side::Agent => self.owner[conversation].expect("every conversation was assigned at the start"),
        };
        let id = self.ledger[conversation].id;
        self.write(number, |client, out| client.history(id, after, out));
    }
}
