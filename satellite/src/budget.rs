//! What a satellite uplink may carry.

use serde::{Deserialize, Serialize};

/// What a satellite uplink may carry, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Budget {
    /// Bytes allowed in a period; `None` when the link isn't metered.
    pub allowed_bytes: Option<u64>,
    /// Bytes already carried.
    pub spent_bytes: u64,
}

impl Budget {
    /// Bytes left; `None` when the link isn't metered.
    pub fn left_bytes(&self) -> Option<u64> {
        self.allowed_bytes.map(|allowed| allowed.saturating_sub(self.spent_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overspent_budget_has_nothing_left() {
        assert_eq!(Budget { allowed_bytes: Some(5), spent_bytes: 7 }.left_bytes(), Some(0));
        assert_eq!(Budget::default().left_bytes(), None);
    }
}
