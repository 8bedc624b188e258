//! A word before the open-file limit makes calls fail.

use std::sync::atomic::{AtomicBool, Ordering};

/// Files that a process has open besides its connections: a guess on the safe side.
const OTHER_FILES: u64 = 32;

/// Warns once per process when the connections come near the limit of open files.
pub(super) fn warn_near_limit(connections: usize) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    // The limit may be raised at run time, so it is asked for again; but not for every connection of a large batch.
    if !connections.is_multiple_of(32) || WARNED.load(Ordering::Relaxed) {
        return;
    }
    let Ok(limit) = rlimit::Resource::NOFILE.get_soft() else {
        return;
    };
    if is_near(connections as u64, limit) && !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            connections,
            limit,
            "connections near the limit of open files; raise it (`ulimit -n`) or lower the concurrency"
        );
    }
}

/// Returns `true` if less than a tenth of the limit is left.
const fn is_near(connections: u64, limit: u64) -> bool {
    connections.saturating_add(OTHER_FILES) > limit - limit / 10
}

#[cfg(test)]
mod tests {
    use super::is_near;

    #[test]
    fn near_is_a_tenth() {
        assert!(!is_near(864, 1_024));
        assert!(is_near(896, 1_024));
        assert!(is_near(2_000, 1_024));
        assert!(!is_near(10_000, 1_048_576));
    }
}
