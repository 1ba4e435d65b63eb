//! Memory of the server and of the kernel, from /proc.
//!
//! The kernel keeps a socket's memory for nobody in particular, so its share is what all of it grew by: slabs, and
//! the pages TCP holds. On loopback both ends live here, so a connection's share of one end is half.

/// Bytes of a page; /proc/net/sockstat counts in them.
fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// The number behind `name` in lines of `name: number [kB]`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Anonymous memory of a process, bytes: what it allocated and touched, without files, code and mapped logs.
///
/// # Errors
/// A sentence when the process is gone or belongs to somebody else.
pub fn anonymous_bytes(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"))?;
    let kib = field(&text, "Anonymous").ok_or_else(|| format!("{path} names no anonymous memory"))?;
    Ok(kib * 1024)
}

/// Slabs and TCP pages of the whole machine, bytes. 0 where /proc does not tell.
pub fn kernel_bytes() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&meminfo, "Slab").unwrap_or(0) * 1024 + tcp_bytes()
}

/// What TCP holds of bytes in the kernel, of the whole machine and with the kernel's own bookkeeping.
pub fn tcp_bytes() -> u64 {
    tcp_pages(&std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default()) * page_bytes()
}

/// Pages behind `mem` in the line `TCP: inuse 5 orphan 0 tw 0 alloc 7 mem 1`.
fn tcp_pages(sockstat: &str) -> u64 {
    let words = sockstat.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or("");
    let mut words = words.split_ascii_whitespace().skip_while(|word| *word != "mem");
    words.nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Bytes per connection between two measurements, rounded; 0 when it shrank.
pub fn each(before: u64, after: u64, connections: u32) -> u64 {
    (after.saturating_sub(before) as f64 / f64::from(connections.max(1))).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_the_text_of_proc() {
        let rollup = "560a-7ffd ---p 00000000 00:00 0  [rollup]\nRss:  5000 kB\nAnonymous:      1234 kB\n";
        assert_eq!(field(rollup, "Anonymous"), Some(1234));
        assert_eq!(field("SlabX: 1 kB\nSlab:  77 kB\n", "Slab"), Some(77));
        assert_eq!(
            tcp_pages("sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 7 mem 31\nUDP: inuse 1 mem 2\n"),
            31
        );
        assert_eq!((each(100, 100, 0), each(200, 100, 5), each(0, 1001, 10)), (0, 0, 100));
    }

    #[test]
    fn touching_memory_is_seen() {
        let pid = std::process::id();
        let before = anonymous_bytes(pid).unwrap();
        let touched = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = anonymous_bytes(pid).unwrap();
        assert!(after >= before + (48 << 20), "{before} then {after} with {} bytes more", touched.len());
        assert!(kernel_bytes() > 0);
        assert!(anonymous_bytes(u32::MAX).unwrap_err().contains("smaps_rollup"));
    }
}
