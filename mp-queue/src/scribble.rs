//! A peer that writes anything anywhere: no call may panic, hang or do worse than err.
