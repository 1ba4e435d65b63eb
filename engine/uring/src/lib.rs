//! The io_uring driver: operation table, reactor, and the system-call shim.
