//! [pure] Requests already answered, and the authors' sequence numbers (promise D3).
//!
//! Only the newest requests are remembered; their order is a queue of rows between two positions
//! that the applied row holds.

use super::namespace::Fold;
use super::outcome::RequestOutcome;
use super::table::{self, AuthorRow, OrderRow, RequestRow, Row};
use aber_log::env::Kv;
use aber_log::env::kv::KvProblem;
use aber_log::planted::{Bug, is_on};
use aber_proto::{ChangeHash, NodeId, RequestId};

impl<K: Kv> Fold<K> {
    pub(crate) fn answered(&mut self, request: RequestId) -> Result<Option<RequestRow>, KvProblem> {
        self.rows.row(&table::request_key(self.partition, request))
    }

    /// Remembers an answer, and forgets the oldest above `most`.
    pub(crate) fn answer(
        &mut self,
        request: RequestId,
        outcome: RequestOutcome,
        most: u64,
    ) -> Result<(), KvProblem> {
        if is_on(Bug::RequestsForgotten) {
            return Ok(());
        }
        let index = self.index();
        let row = RequestRow { index, outcome };
        self.rows
            .put(table::request_key(self.partition, request), row.encode());
        let (oldest, next) = self.applied.requests;
        self.rows.put_new(
            table::request_order_key(self.partition, next),
            OrderRow(request).encode(),
        );
        self.applied.requests.1 = next.wrapping_add(1);
        if self.applied.requests.1.wrapping_sub(oldest) > most {
            let key = table::request_order_key(self.partition, oldest);
            let first: OrderRow = self.rows.row(&key)?.ok_or_else(|| table::damaged(&key))?;
            self.rows.remove(key);
            self.rows
                .remove(table::request_key(self.partition, first.0));
            self.applied.requests.0 = oldest.wrapping_add(1);
        }
        Ok(())
    }

    /// The last sequence number of an author that counted; 0 if none did.
    pub(crate) fn last_sequence(&mut self, author: NodeId) -> Result<u64, KvProblem> {
        let row: Option<AuthorRow> = self.rows.row(&table::author_key(self.partition, author))?;
        Ok(row.map_or(0, |row| row.sequence))
    }

    pub(crate) fn set_author(&mut self, author: NodeId, sequence: u64, change: ChangeHash) {
        let row = AuthorRow { sequence, change };
        self.rows
            .put(table::author_key(self.partition, author), row.encode());
    }
}
